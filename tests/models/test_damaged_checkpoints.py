"""The law of damaged checkpoints: every damage x every way in ends in one sentence that names the file."""

import functools
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import UNET, Payload, run_config, write

import tta_bench.cli
from tta_bench.errors import UserError
from tta_bench.models.checkpoint import load_checkpoint, read_checkpoint

WEIGHT, VARIANCE, COUNT = "head.0.bias", "encoder.model.bn1.running_var", "encoder.model.bn1.num_batches_tracked"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("sound") / "own.ckpt", run_config(UNET))


def content(change):
    """Rewrites the stored dictionary."""

    def damage(path: Path) -> None:
        stored = torch.load(path, weights_only=True)
        made = change(stored)
        torch.save(stored if made is None else made, path)

    return damage


def weight(value, key=WEIGHT):
    return content(lambda stored: stored["state"].update({key: value() if callable(value) else value}))


def entry(**changes):
    return content(lambda stored: stored.update(changes))


def part(section, **changes):
    return content(lambda stored: stored[section].update(changes))


def archive(change, compression=zipfile.ZIP_STORED):
    """Writes the zip archive anew; ``change`` maps its entries."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as file:
            entries = [(name, file.read(name)) for name in file.namelist()]
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, data in change(entries):
                file.writestr(name, data)

    return damage


def replaced(make):
    """Puts something else in the place of the file."""

    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def text(data: bytes):
    return lambda path: path.write_bytes(data)


@functools.cache
def zeros() -> bytes:
    """An archive in which 768 MiB of zeros take 3 MB."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open("own/data/0", "w") as member,
    ):
        for _ in range(48):
            member.write(bytes(2**24))
    return file.getvalue()


def bomb(path: Path) -> None:
    """The entries of a sound archive beside one that is compressed by a factor of hundreds."""
    with zipfile.ZipFile(path) as file:
        entries = [(name, file.read(name)) for name in file.namelist() if not name.endswith("/data/0")]
    path.write_bytes(zeros())
    with zipfile.ZipFile(path, "a") as file:
        for name, data in entries:
            file.writestr(name, data)


def deep(path: Path) -> None:
    archive(
        lambda entries: [
            (n, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"." if n.endswith("data.pkl") else d)
            for n, d in entries
        ]
    )(path)


def script(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


EXECUTES = Payload(Path("/nonexistent/folder/created"))
DAMAGES = {
    "empty": text(b""),
    "one byte": text(b"P"),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "last byte lost": lambda path: os.truncate(path, path.stat().st_size - 1),
    "text": text(b"<html>404</html>"),
    "numpy": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "numpy archive": lambda path: np.savez(path.open("wb"), a=np.zeros(3)),
    "safetensors": text(struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}}'),
    "gzip": text(b"\x1f\x8b\x08" + bytes(30)),
    "torchscript": script,
    "old torch": lambda path: torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False),
    "pickle": text(pickle.dumps({"a": 1})),
    "executes code": content(lambda stored: {**stored, "training": EXECUTES}),
    "folder": replaced(Path.mkdir),
    "pipe": replaced(os.mkfifo),
    "device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "circle of links": replaced(lambda path: path.symlink_to(path)),
    "dangling link": replaced(lambda path: path.symlink_to("nothing")),
    "zip bomb": bomb,
    "compressed": archive(lambda entries: entries, zipfile.ZIP_DEFLATED),
    "no description": archive(lambda entries: [(n, d) for n, d in entries if not n.endswith(".pkl")]),
    "no weights": archive(lambda entries: [(n, d) for n, d in entries if "/data/" not in n]),
    "entries twice": archive(lambda entries: [*entries, entries[-1]]),
    "huge description": archive(
        lambda entries: [(n, d + bytes(9 * 2**20) * n.endswith("data.pkl")) for n, d in entries]
    ),
    "deep nesting": deep,
    "empty pickle": archive(lambda entries: [(n, b"" if n.endswith("data.pkl") else d) for n, d in entries]),
    "another dictionary": content(lambda stored: {"epoch": 3}),
    "lightning": content(lambda stored: {"pytorch-lightning_version": "2.6", "state_dict": stored["state"]}),
    "a list": content(lambda stored: [1, 2]),
    "a tensor": content(lambda stored: torch.zeros(3)),
    "numbers as keys": content(lambda stored: {1: torch.zeros(3)}),
    "no state": content(lambda stored: stored.update(other=stored.pop("state"))),
    "state is a list": entry(state=[torch.zeros(3)]),
    "state is empty": entry(state={}),
    "a key is a number": weight(torch.zeros(2), key=1),
    "a key is missing": content(lambda stored: stored["state"].update(other=stored["state"].pop(WEIGHT))),
    "a key too many": weight(torch.zeros(2), key="extra"),
    "stride 0": weight(torch.zeros(1).expand(2)),
    "huge by stride 0": weight(torch.zeros(1).expand(2**40)),
    "sparse": weight(torch.zeros(2).to_sparse()),
    "sparse rows": weight(lambda: torch.zeros(2, 2).to_sparse_csr()),
    "quantised": weight(lambda: torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)),
    "meta": weight(torch.zeros(2, device="meta")),
    "complex": weight(torch.zeros(2, dtype=torch.complex64)),
    "bool": weight(torch.zeros(2, dtype=torch.bool)),
    "integers": weight(torch.zeros(2, dtype=torch.int32)),
    "8 bits": weight(torch.zeros(2, dtype=torch.float8_e4m3fn)),
    "None": weight(None),
    "nested": weight({"bias": torch.zeros(2)}),
    "shape": weight(torch.zeros(3)),
    "nan": weight(torch.tensor([0.0, float("nan")])),
    "too large for float32": weight(torch.tensor([0.0, 1e300], dtype=torch.float64)),
    "negative variance": weight(torch.full((32,), -1e-3), key=VARIANCE),
    "infinite variance": weight(torch.full((32,), float("inf")), key=VARIANCE),
    "negative count": weight(torch.tensor(-1), key=COUNT),
    "a count that is no number": weight(torch.tensor(float("nan")), key=COUNT),
    "version": entry(format_version="1"),
    "preprocessing": entry(preprocessing=["min-max per image"] * 10**5),
    "architecture is None": entry(architecture=None),
    "architecture is a list": entry(architecture=[]),
    "encoder is a list": part("architecture", encoder=["resnet18"]),
    "unknown encoder": part("architecture", encoder="resnet-18"),
    "unknown network": part("architecture", name="vnet"),
    "huge widths": part("architecture", decoder_channels=[10**9] * 5),
    "widths are text": part("architecture", decoder_channels="16"),
    "unknown branch": part("architecture", branches=["colour"]),
    "classes are a list": entry(classes=["disc", "cup"]),
    "classes are empty": entry(classes={}),
    "a class is None": entry(classes={"disc": None, "cup": [2]}),
    "a mask value is huge": entry(classes={"disc": [10**30], "cup": [2]}),
    "a class is no text": entry(classes={1: [1], "cup": [2]}),
    "image size is text": entry(image_size="64"),
    "image size is true": entry(image_size=True),
    "image size is nan": entry(image_size=float("nan")),
    "image size is huge": entry(image_size=2**70),
    "domain is a dictionary": entry(domain={"A": 1}),
    "fingerprint is a number": entry(fingerprint=3),
    "training is a list": entry(training=[1]),
    "training without epochs": entry(training={"name": "x"}),
    "Dice is nan": entry(dice_in_domain={"disc": float("nan"), "cup": 1.0}),
    "Dice is text": entry(dice_in_domain={"disc": "90", "cup": "80"}),
    "Dice of another class": entry(dice_in_domain={"nuclei": 90.0}),
    "Dice is a number": entry(dice_in_domain=90.0),
}

WAYS_IN = {
    "checkpoint=": lambda path: load_checkpoint(path, run_config(UNET)),
    "verify": lambda path: tta_bench.cli.main(["checkpoint", "verify", str(path)]),
    "import": lambda path: tta_bench.cli.main(["checkpoint", "import", str(path), f"{path}.new", "--domain", "A"]),
}


@pytest.mark.filterwarnings("ignore:.*(torch.jit|quantize_per_tensor|Sparse CSR|torch.ao).*")
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_one_sentence_in_every_way_in(sound, tmp_path, capsys, recwarn, damage):
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(sound.read_bytes())
    DAMAGES[damage](path)
    recwarn.clear()
    for way, enter in WAYS_IN.items():
        with pytest.raises((UserError, SystemExit)) as refused:
            enter(path)
        if isinstance(refused.value, SystemExit):
            assert refused.value.code == 2
            told = capsys.readouterr().err.replace("error: ", "").splitlines()
        else:
            told = list(refused.value.faults)
        assert told, way
        for sentence in told:
            assert sentence.startswith(f"checkpoint {path}"), way
            assert ": " in sentence.removeprefix(f"checkpoint {path}"), "no remedy"
            assert len(sentence) < 700, "cut short"
        assert not Path(f"{path}.new").exists()
    assert not recwarn.list, "torch's warnings about a file that is refused are noise"


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_byte_anywhere_is_refused_or_changes_nothing(sound, tmp_path, seed):
    expected = read_checkpoint(sound)
    data, path = sound.read_bytes(), tmp_path / "damaged.ckpt"
    random = np.random.default_rng(seed)
    directory = data.index(b"PK\x01\x02")
    for place in (*random.integers(0, len(data), 4), *random.integers(directory, len(data), 12)):
        damaged = bytearray(data)
        damaged[place] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except UserError as error:
            assert all(sentence.startswith(f"checkpoint {path}") for sentence in error.faults)  # noqa: PT017
        else:
            assert found.classes == expected.classes
            assert all(torch.equal(found.state[key], value) for key, value in expected.state.items())


def test_an_official_file_is_checked_as_an_own_one(official, tmp_path):
    for key, value, message in (
        ("up5.bias", torch.zeros(32, dtype=torch.complex64), "wrong types: up5.bias complex64 instead of float32"),
        ("bnout.running_var", torch.full((32,), -1.0), "negative variances or counts in bnout.running_var"),
        ("up5.bias", torch.zeros(1).expand(32), r"other things than plain tensors: up5.bias \(repeated memory\)"),
    ):
        path = tmp_path / "m.pth"
        torch.save(torch.load(official, weights_only=True) | {key: value}, path)
        with pytest.raises(UserError, match=message):
            read_checkpoint(path)


def test_dead_channels_of_variance_zero_and_other_precisions_are_sound(sound, tmp_path):
    path = tmp_path / "m.ckpt"
    path.write_bytes(sound.read_bytes())
    weight(torch.zeros(32), key=VARIANCE)(path)
    weight(torch.ones(2, dtype=torch.float16))(path)
    model = load_checkpoint(path, run_config(UNET)).model
    assert torch.equal(model.state_dict()[WEIGHT], torch.ones(2))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("damage", ["zip bomb", "huge by stride 0", "huge widths", "huge description"])
def test_memory_is_bounded(sound, tmp_path, damage):
    import resource

    path = tmp_path / "damaged.ckpt"
    path.write_bytes(sound.read_bytes())
    DAMAGES[damage](path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError):
        read_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB
