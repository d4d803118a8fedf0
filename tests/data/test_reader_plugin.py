"""A reader of another package is one file and one YAML; every reader keeps the same few promises."""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml

from sections import data_config
from tta_bench.data.readers.base import READERS, Reader, open_reader, section_faults
from tta_bench.errors import UserError
from tta_bench.runtime.paths import CONFIG_DIR
from tta_bench.schema import DataConfig

READER = '''
"""Domains as archives: ROOT/DOMAIN.npz with images [n, H, W, 3] and masks [n, H, W]."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tta_bench.data.readers.base import Reader, Sample, existing_root, register_reader


@dataclass(frozen=True)
class ArchiveRecord:
    path: Path
    index: int
    labelled: bool = True

    @property
    def name(self):
        return f"{self.index:03d}"

    @property
    def origin(self):
        return f"{self.path}, mask {self.index}"

    def stamp(self):
        return [str(self.path), self.path.stat().st_mtime_ns]

    def memory(self, size):
        return self.path.stat().st_size

    def read(self, size):
        with np.load(self.path) as archive:
            image, mask = archive["images"][self.index], archive["masks"][self.index]
        return Sample(image, mask)


@register_reader("archive")
class ArchiveReader(Reader):
    needs = ("root",)

    def __init__(self, root):
        self.root = root

    @classmethod
    def from_config(cls, config):
        return cls(existing_root(config))

    def domain_names(self):
        return tuple(sorted(path.stem for path in self.root.glob("*.npz")))

    def records(self, domain):
        path = self.root / f"{domain}.npz"
        with np.load(path) as archive:
            return [ArchiveRecord(path, index) for index in range(len(archive["masks"]))]
'''
YAML = """# Archives of arrays.
name: archive
root: null
image_size: 64
limit: null
classes: {foreground: [1]}
"""
TINY = ["training.epochs=1", "training.min_steps=0", "source=X"]
TINY += ["model.encoder=tu-test_resnet", "model.decoder_channels=[16,16,8,8,8]"]


@pytest.fixture
def run(tmp_path):
    """The command line where a package with a reader is installed and its data set lies in ``images``."""
    package, metadata = tmp_path / "site/my_reader", tmp_path / "site/my_reader-1.0.dist-info"
    (package / "conf/data").mkdir(parents=True)
    metadata.mkdir()
    (package / "__init__.py").write_text(READER)
    (package / "conf/data/archive.yaml").write_text(YAML)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-reader\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{READERS.group}]\nmy_reader = my_reader\n")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for domain in "XY":
        images, masks = rng.integers(0, 256, (4, 80, 70, 3), np.uint8), rng.integers(0, 2, (4, 80, 70), np.uint8)
        np.savez(tmp_path / f"images/{domain}.npz", images=images, masks=masks)

    def run(module, *arguments):
        path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", module, *arguments, "data=archive"]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )

    return run


def test_the_images_of_a_plug_in_are_checked(run):
    checked = run("tta_bench.cli", "data", "check", "data.root=images")
    assert checked.returncode == 0, checked.stderr
    assert "data=archive, read at 64 px" in checked.stdout
    assert "70x80" in checked.stdout


@pytest.mark.slow
def test_the_images_of_a_plug_in_are_adapted_to(run, tmp_path):
    ran = run("tta_bench", "+method=bn_only", "data.root=images", *TINY)
    assert ran.returncode == 0, ran.stderr
    assert len(list((tmp_path / "outputs/cells").glob("*/summary.json"))) == 2


def test_what_a_plug_in_needs_is_asked_for(run):
    refused = run("tta_bench", "+method=bn_only", *TINY, "seed=-1")
    assert refused.returncode == 2
    assert "data=archive needs the folder of the images: add data.root=DIR" in refused.stderr
    assert "seed" in refused.stderr


def configure(name, **changes):
    return data_config(name=name, **changes)


def complete(name, folder, **changes):
    """With all that a reader needs."""
    values = {"root": folder, "domains": {"A": "a"}}
    return configure(name, **{key: values[key] for key in READERS.get(name).needs} | changes)


@pytest.mark.parametrize("name", READERS.names())
class TestEveryReader:
    def test_is_chosen_by_its_own_file(self, name):
        assert issubclass(READERS.get(name), Reader)
        assert yaml.safe_load((CONFIG_DIR / f"data/{name}.yaml").read_text())["name"] == name

    def test_asks_for_what_it_needs(self, name, tmp_path):
        needs = READERS.get(name).needs
        assert set(needs) <= set(DataConfig.model_fields)
        sentences = section_faults(configure(name))
        assert len(sentences) == len(needs)
        assert all(sentence.startswith(f"data={name} needs ") for sentence in sentences)
        assert section_faults(complete(name, tmp_path)) == []
        if needs:
            with pytest.raises(UserError) as caught:
                open_reader(configure(name))
            assert list(caught.value.faults) == sentences

    def test_says_whether_shades_mean_something(self, name, tmp_path):
        shades = {"background": (0,), "cup": (1,)}
        sentences = section_faults(complete(name, tmp_path, shades=shades))
        assert len(sentences) == (not READERS.get(name).decodes_shades)

    @pytest.mark.parametrize(("key", "value"), [("root", "images"), ("domains", {"A": "a"})])
    def test_refuses_what_it_would_not_look_at(self, name, key, value, tmp_path):
        used = key in (*READERS.get(name).needs, *READERS.get(name).takes)
        faults = section_faults(complete(name, tmp_path, **{key: value}))
        assert [fault.partition(":")[0] for fault in faults] == [f"data.{key} is not for data={name}"] * (not used)

    def test_refuses_a_domain_that_is_not_there(self, name, tmp_path):
        (tmp_path / "A/image").mkdir(parents=True)
        (tmp_path / "a.csv").touch()
        reader = open_reader(complete(name, tmp_path))
        assert "A" in reader.domain_names()
        with pytest.raises(UserError, match="unknown domain 'nowhere'"):
            reader.records("nowhere")


def test_an_unknown_reader_is_named_with_the_nearest():
    assert section_faults(configure("foldr")) == ["data.name=foldr: unknown reader 'foldr': did you mean 'folder'?"]
