"""The transaction log that W&B writes offline, read as its own service reads it: LevelDB's log of Record messages."""

import json
import struct

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7


def records(path):
    """The messages of a ``.wandb`` file, in order."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, []
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        parts.append(data[position + HEADER : position + HEADER + length])
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def read(path):
    """Name, group, job type, tags, config, history, summary and exit code of an offline run."""
    found = {"history": [], "summary": {}, "config": {}, "exit": None, "x": {}}
    for record in records(path):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                found |= {"id": run.run_id, "name": run.display_name, "group": run.run_group, "job": run.job_type}
                found["tags"] = list(run.tags)
                found["config"] |= {item.key: json.loads(item.value_json) for item in run.config.update}
            case "history":
                found["history"].append({_key(item): json.loads(item.value_json) for item in record.history.item})
            case "summary":
                found["summary"] |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
            case "metric":
                found["x"][record.metric.glob_name or record.metric.name] = record.metric.step_metric
            case "artifact":
                found["artifact"] = record.artifact.name
            case "exit":
                found["exit"] = record.exit.exit_code
    return found


def _key(item):
    return item.key or ".".join(item.nested_key)
