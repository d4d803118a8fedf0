"""Checkpoints: damaged archives, and sound archives with odd contents."""

from functools import cache

import torch
from damage import SCALARS, VALUES, cases, damaged_bytes, damaged_mapping, outcome
from hypothesis import given
from hypothesis import strategies as st

from tta_bench.cli.checkpoint_verify import verify
from tta_bench.launch.check import check
from tta_bench.models.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from tta_bench.ops.preprocessing import PAPER

WEIGHT = torch.arange(12.0).reshape(3, 4)
ODD = {
    "nan": WEIGHT / 0,
    "complex": WEIGHT + 1j,
    "integer": WEIGHT.long(),
    "half": WEIGHT.half(),
    "boolean": WEIGHT > 1,
    "empty": torch.empty(0),
    "scalar": torch.tensor(1.0),
    "stride-0": torch.ones(1).expand(2**40),
    "sparse": WEIGHT.to_sparse(),
    "sparse rows": WEIGHT.to_sparse_csr(),
    "quantised": torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.quint8),
    "meta": torch.empty(2**40, device="meta"),
    "negative": -WEIGHT,
}


def content():
    """What :func:`save_checkpoint` writes, of a network of two tensors."""
    (config,) = check(["+method=no_adapt", "source=A"])
    return config, {
        "architecture": config.model.model_dump(mode="json"),
        "preprocessing": PAPER,
        "classes": {"disc": [1, 2], "cup": [2]},
        "image_size": 128,
        "domain": "A",
        "fingerprint": "ab" * 16,
        "training": config.training.model_dump(mode="json"),
        "dice_in_domain_per_class": {"disc": 90.0, "cup": 80.0},
    }


@cache
def seed(folder):
    config, fields = content()
    path = folder / "seed.ckpt"
    save_checkpoint(path, {"encoder.weight": WEIGHT, "encoder.running_var": WEIGHT[0] + 1}, **fields)
    return config, path.read_bytes(), torch.load(path, weights_only=True)


def read(path, config):
    for use in (read_checkpoint, verify, lambda path: load_checkpoint(path, config)):
        with outcome():
            use(path)


@cases(seeded=12, fuzz=500)
@given(data=st.data())
def test_a_damaged_archive_is_read_or_refused(data, tmp_path):
    config, archive, _ = seed(tmp_path)
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(data.draw(damaged_bytes(archive)))
    read(path, config)


@cases(seeded=12, fuzz=500)
@given(data=st.data())
def test_odd_contents_are_read_or_refused(data, tmp_path):
    config, _, payload = seed(tmp_path)
    plain = {key: value for key, value in payload.items() if key != "state"}
    damaged = data.draw(damaged_mapping(plain))
    names = st.one_of(st.sampled_from(["encoder.weight", "encoder.running_var"]), SCALARS.filter(_hashable))
    tensors = st.one_of(st.sampled_from(sorted(ODD)).map(ODD.get), VALUES)
    damaged["state"] = {**payload["state"], **data.draw(st.dictionaries(names, tensors, max_size=2))}
    path = tmp_path / "odd.ckpt"
    torch.save(damaged, path)
    read(path, config)


def _hashable(value):
    return not isinstance(value, dict | list)
