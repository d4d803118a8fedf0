"""What a finished cell leaves in each place, read back by the place's own reader."""

import csv
import json
import math
from pathlib import Path

import pytest

from made_tables import planned
from tta_bench.launch.check import check
from tta_bench.sinks.about import about_cell
from tta_bench.sinks.base import Point
from tta_bench.sinks.contents import points_of
from tta_bench.sinks.delivery import Live, send, unsent
from tta_bench.sinks.panels import _png
from tta_bench.sinks.sync import synchronise
from wandb_files import read

NO_LOGIN = "No API key configured. Use `wandb login` to log in."


@pytest.fixture
def folder(cell):
    """Of the cell, with a picture per target."""
    import numpy as np

    path = cell.folder().path
    (path / "panels").mkdir()
    for target in cell.targets:
        mask = np.zeros((2, 64, 64), bool)
        (path / f"panels/{target}.png").write_bytes(_png(np.zeros((64, 64, 3), np.uint8), mask, mask))
    return path


def loggers(name, root):
    words = ["+method=tent", f"logger={name}", f"results_root={root}"]
    (config,) = check([*words, *(["logger.wandb.mode=offline"] if name == "wandb" else [])], multirun=False)
    return config.logger


def curves(folder):
    """Curve -> values by position."""
    found = {}
    for point in points_of(folder):
        for name, value in point.values.items():
            found.setdefault(name, {})[point.position] = value
    return found


class Wandb:
    """The transaction log."""

    def __init__(self, root, folder, about):
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        self.run = read(path)
        assert (self.run["id"], self.run["name"], self.run["job"]) == (about.id, about.name, "cell")
        assert self.run["tags"] == about.tags
        assert {key: value for key, value in self.run["config"].items() if key != "_wandb"} == dict(about.config)
        assert self.run["x"] == {"C/*": "C/image", "D/*": "D/image"}

    def curve(self, name):
        axis = f"{name.partition('/')[0]}/image"
        return {row[axis]: row[name] for row in self.run["history"] if name in row}

    def number(self, name):
        return self.run["summary"][name]

    def pictures(self):
        return {name.split("/")[1].split(".")[0] for name in self.run["summary"] if name.startswith("panels/")}


class TensorBoard:
    """Its event accumulator."""

    def __init__(self, root, folder, about):
        pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (path,) = root.glob("tensorboard/*/*")
        assert path.name == f"{about.name} {about.id[:8]}"
        self.events = EventAccumulator(str(path))
        self.events.Reload()
        text = self.events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
        assert json.loads(text.removeprefix("```json  \n").removesuffix("  \n```")) == json.loads(
            json.dumps(about.config)
        )

    def curve(self, name):
        return {event.step: event.value for event in self.events.Scalars(name)}

    def number(self, name):
        return self.events.Scalars(f"final/{name}")[0].value

    def pictures(self):
        return {tag.split("/")[1] for tag in self.events.Tags()["images"]}


class Mlflow:
    """Its client."""

    def __init__(self, root, folder, about):
        pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
        experiment = self.client.get_experiment_by_name("tta_bench")
        (self.run,) = self.client.search_runs([experiment.experiment_id])
        assert (self.run.info.run_name, self.run.info.status) == (about.name, "FINISHED")
        assert self.run.data.params["method/learning_rate"] == "0.0001"

    def curve(self, name):
        return {each.step: each.value for each in self.client.get_metric_history(self.run.info.run_id, name)}

    def number(self, name):
        return self.run.data.metrics[f"final/{name}"]

    def pictures(self):
        files = self.client.list_artifacts(self.run.info.run_id, "panels")
        return {file.path.removeprefix("panels/").removesuffix(".png") for file in files}


READERS = {"wandb": Wandb, "tensorboard": TensorBoard, "mlflow": Mlflow}
LIBRARIES = {"wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow"}


@pytest.mark.parametrize("name", READERS)
def test_every_curve_number_and_picture_is_read_back_after_an_interruption(name, folder, about, tmp_path):
    pytest.importorskip(LIBRARIES[name], reason=f"the extra {name} is not installed")
    points = list(points_of(folder))
    stopped = Live(loggers(name, tmp_path), about, folder)
    for point in points[:2]:
        stopped.tell(point)
    stopped._senders[0].items.put(None)
    stopped._senders[0]._thread.join()
    assert stopped._senders[0].fault is None
    live = Live(loggers(name, tmp_path), about, folder, going_on=True)
    for point in points:
        live.tell(point)
    live.finish({"compared/gain_over_no_adapt": 1.5})
    assert list(unsent(loggers(name, tmp_path), folder)) == []
    found = READERS[name](tmp_path, folder, about)
    for curve, values in curves(folder).items():
        assert found.curve(curve) == pytest.approx(values), curve
    assert found.number("dice") == 51.0
    assert found.number("compared/gain_over_no_adapt") == 1.5
    assert found.number("cost/peak_memory_mb") == 100.0
    assert found.pictures() == {"C", "D"}


def test_a_run_that_was_kept_offline_stays_until_it_has_arrived(folder, about, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_login"))
    send(loggers("wandb", tmp_path), about, folder)
    (kept,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = kept.read_bytes()
    arrived, (left,) = synchronise(tmp_path)
    assert (arrived, left) == (0, f"W&B lacks 1 run ({NO_LOGIN}): {folder}")
    assert kept.read_bytes() == content
    assert synchronise(tmp_path) == (0, [left])


def test_the_csv_file_has_a_line_per_cell_and_target_however_often_it_is_sent(folder, about, tmp_path):
    where = loggers("csv", tmp_path)
    for forced in range(2):
        live = Live(where, about, folder)
        live.tell(Point("C/image", 1, {"C/dice": math.pi}))
        live.finish()
        assert list(unsent(where, folder)) == [], forced
    with (tmp_path / "all_cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["cell"], line["target"], line["dice"]) for line in lines] == [
        (about.id, "C", "51.0"),
        (about.id, "D", "51.0"),
    ]
    assert lines[0]["method/learning_rate"] == "0.0001"
    assert lines[0]["name"] == about.name == "tent image_size=64 source=A target=C,D"
    send(where, about, folder)
    assert len((tmp_path / "all_cells.csv").read_text().splitlines()) == 3


OTHER_CELLS = {
    "method.learning_rate": 0.01,
    "adapt": {"name": "adabn", "batch_size": 8},
    "precision": "bf16",
    "predict.nest": True,
    "diagnostics.empirical_gradient": True,
    "protocol.steps": 2,
    "data.limit": 3,
    "data.fit": "pad",
    "model.encoder": "resnet34",
    "training.seed": 1,
    "checkpoint": Path("given.ckpt"),
    "route": ("B",),
}


def test_no_two_cells_have_the_same_name(tmp_path):
    more = {"data.seed": 1, "target": ("C",), "source": "B", "training.learning_rate": 0.01}
    changes = [{}, *({key: value} for key, value in (OTHER_CELLS | more).items())]
    cells = [planned(tmp_path, "", {"method": "tent", **change}).cell for change in changes]
    names = {about_cell(each.config, each.seed, each.folder().hash).name for each in cells}
    assert len(names) == len(cells)
    assert any(" training.lr=0.01 " in name for name in names), "it is not the method's"


@pytest.mark.parametrize("key", OTHER_CELLS)
def test_whatever_makes_another_cell_is_in_its_name_and_a_column_of_the_csv_file(cell, folder, tmp_path, key):
    changed = planned(tmp_path, "", {"method": "tent", key: OTHER_CELLS[key]}).cell
    assert changed.folder().hash != cell.folder().hash
    both = [about_cell(each.config, each.seed, each.folder().hash) for each in (cell, changed)]
    assert both[0].name != both[1].name
    lines = []
    for place, about in zip("ab", both, strict=True):
        send(loggers("csv", tmp_path / place), about, folder)
        with (tmp_path / place / "all_cells.csv").open(newline="") as file:
            lines.append(next(csv.DictReader(file)))
    first, other = ({key: line[key] for key in line if key not in ("cell", "name")} for line in lines)
    assert first != other
