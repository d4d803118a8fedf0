"""Preparation: the arrays of a domain, and the faults of all at once."""

import os
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from made_pairs import configure, entries, faults, pair
from PIL import Image
from rich.console import Console

from sections import data_config
from tta_bench.cli.data_check import check
from tta_bench.cli.data_preview import preview
from tta_bench.data import decoding
from tta_bench.data.file_record import FileRecord
from tta_bench.data.prepare import FAULTS_SHOWN, prepare
from tta_bench.data.readers.base import available_domains
from tta_bench.errors import UserError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def test_arrays_are_the_resized_files(root, cache):
    domains = prepare(configure(root), ["Q", "P", "Q"], cache)
    assert list(domains) == ["Q", "P"]
    domain = domains["P"]
    assert domain.image_names == ("0", "1", "2", "3", "4")
    assert isinstance(domain.images, np.memmap)
    assert not domain.images.flags.writeable
    assert (domain.images.shape, domain.images.dtype) == ((5, 64, 64, 3), np.uint8)
    assert (domain.masks.shape, domain.masks.dtype) == ((5, 64, 64), np.uint8)
    for index, name in enumerate(domain.image_names):
        image = Image.open(root / f"P/image/{name}.png").convert("RGB")
        np.testing.assert_array_equal(
            domain.images[index], np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
        )
        mask = Image.open(root / f"P/mask/{name}.png").resize((64, 64), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(domain.masks[index], np.asarray(mask))
    assert domain.image(0).shape == (3, 64, 64)
    assert domain.label(0).shape == (1, 64, 64)


def test_each_image_is_decoded_once(root, cache, decoded):
    first = prepare(configure(root), ["P", "Q"], cache)
    assert len(decoded) == 8
    second = prepare(configure(root), ["P", "Q"], cache)
    assert len(decoded) == 8
    assert {name: domain.fingerprint for name, domain in first.items()} == {
        name: domain.fingerprint for name, domain in second.items()
    }


def test_order_and_memory_bound(root, cache, monkeypatch):
    expected = np.array(prepare(configure(root), ["P"], cache)["P"].images)
    shutil.rmtree(cache)
    monkeypatch.setattr(decoding, "_CHUNK", 2)
    np.testing.assert_array_equal(prepare(configure(root), ["P"], cache)["P"].images, expected)


@pytest.mark.parametrize("processors", [1, 512])
def test_memory_does_not_grow_with_the_processors(root, cache, monkeypatch, processors):
    """What is decoded at one time fits the budget, or is a single pair that does not fit at all."""
    together, most, guard = [], [], threading.Lock()

    def read(self, size, read=FileRecord.read):
        with guard:
            together.append(self.memory(size))
            most.append(list(together))
        time.sleep(0.01)
        sample = read(self, size)
        with guard:
            together.remove(self.memory(size))
        return sample

    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setattr(decoding, "_MEMORY", 25 * 2**20)
    monkeypatch.setattr(FileRecord, "memory", lambda self, size: 2**20 * (99 if self.name == "2" else 10))
    monkeypatch.setattr(FileRecord, "read", read)
    assert len(prepare(configure(root), ["P"], cache)["P"]) == 5
    assert max(map(len, most)) == min(processors, 2)
    assert all(len(needs) == 1 or sum(needs) <= 25 * 2**20 for needs in most)


def test_memory_is_told_by_the_headers(root):
    record = FileRecord("0", root / "P/image/0.png", root / "P/mask/0.png")
    assert record.memory(64) == FileRecord("0", root / "P/image/0.png", root / "none.png").memory(64) > 96 * 80
    (root / "P/image/0.png").write_text("no image")
    assert FileRecord("0", root / "P/image/0.png", root / "none.png").memory(64) == 0


class TestWithoutMasks:
    """A domain of images alone can be prepared, looked at and segmented, and is refused where labels are needed."""

    @pytest.fixture
    def bare(self, root):
        shutil.rmtree(root / "P/mask")
        return root

    def test_images_are_those_beside_masks(self, root, cache, tmp_path):
        before = prepare(configure(root), ["P"], tmp_path / "before")["P"]
        shutil.rmtree(root / "P/mask")
        domain = prepare(configure(root), ["P"], cache)["P"]
        assert domain.masks is None
        assert domain.image_names == before.image_names
        np.testing.assert_array_equal(domain.images, before.images)
        assert domain.fingerprint != before.fingerprint
        with pytest.raises(UserError, match="domain 'P' has no masks"):
            domain.label(0)

    def test_they_are_decoded_once(self, bare, cache, decoded):
        for _ in range(2):
            prepare(configure(bare), ["P"], cache)
        assert len(decoded) == 5
        (entry,) = entries(cache)
        assert sorted(path.name for path in entry.iterdir()) == ["images.npy", "index.json"]
        (entry / "images.npy").write_bytes(b"")
        assert len(prepare(configure(bare), ["P"], cache)["P"]) == 5
        assert len(decoded) == 10

    def test_masks_that_come_later_are_read(self, bare, cache):
        prepare(configure(bare), ["P"], cache)
        for index in range(5):
            pair(bare, "P", f"{index}.png", seed=index)
        assert prepare(configure(bare), ["P"], cache)["P"].masks is not None

    def test_whoever_needs_them_is_told_before_anything_is_decoded(self, bare, cache, decoded):
        with pytest.raises(UserError) as caught:
            prepare(configure(bare), ["P", "PP", "Q"], cache, labelled=True)
        first, second = caught.value.faults
        assert first.startswith("domain 'P' has no masks: training and scoring need one of each image")
        assert first.endswith(f"the first is {bare / 'P/mask/0.*'}")
        assert "unknown domain 'PP'" in second
        assert len(decoded) == 3  # of Q

    def test_a_broken_image_is_told(self, bare, cache):
        (bare / "P/image/2.png").write_text("no image")
        (sentence,) = faults(configure(bare), ["P"], cache)
        assert "P/image/2.png is not an image" in sentence

    def test_check_and_preview(self, bare, cache, tmp_path):
        table, sentences = check(configure(bare), ["P", "Q"], cache)
        assert sentences == ()
        console = Console(width=200)
        with console.capture() as capture:
            console.print(table)
        assert "no masks" in capture.get()
        preview(configure(bare), ["P", "Q"], cache, tmp_path / "preview.png")
        assert (tmp_path / "preview.png").is_file()


def test_limit(root, cache):
    assert len(prepare(configure(root, limit=2), ["P"], cache)["P"]) == 2
    assert len(prepare(configure(root, limit=99), ["P"], cache)["P"]) == 5


def test_faults_of_all_domains_at_once(root, cache):
    (root / "P/image/1.png").write_text("no image")
    Image.new("RGB", (80, 96)).save(root / "P/image/2.png")
    (root / "Q/mask/0.png").unlink()
    for index in range(2):
        pair(root, "R", f"{index}.png", values=(0, 255))
    (root / "S/image").mkdir(parents=True)
    (root / "S/mask").mkdir()
    sentences = faults(configure(root), ["P", "Q", "R", "S", "PP"], cache)
    assert len(sentences) == 6
    assert "P/image/1.png is not an image" in sentences[0]
    assert "P/image/2.png is constant (every value is 0)" in sentences[1]
    assert "Q/image/0.png has no mask" in sentences[2]
    assert "domain 'R': 2 of 2 masks" in sentences[3]
    assert "S/image holds no image" in sentences[4]
    assert "unknown domain 'PP'" in sentences[5]
    assert not [path for path in cache.iterdir() if "part" in path.name]


def test_missing_file_of_a_list_does_not_hide_the_others(tmp_path, cache):
    classes = {"disc": (1, 2), "cup": (2,)}
    config = configure(tmp_path, name="fundus", classes=classes, domains={"D": "REFUGE_Valid"})
    pair(tmp_path, "x", "a.png", values=(0, 128, 255))
    pair(tmp_path, "x", "b.png", values=(0, 1, 2))
    rows = ["image,mask", *(f"x/image/{name}.png,x/mask/{name}.png" for name in "abc")]
    (tmp_path / "REFUGE_Valid.csv").write_text("\n".join(rows))
    sentences = faults(config, ["D"], cache)
    assert len(sentences) == 3
    assert "b.png has grey codes without a meaning: 1 (" in sentences[0]
    assert "image/c.png does not exist" in sentences[1]
    assert "mask/c.png does not exist" in sentences[2]


def test_the_list_of_faults_is_capped(root, cache):
    for index in range(30):
        (root / f"P/image/{index:03d}.png").touch()
    sentences = faults(configure(root), ["P"], cache)
    assert len(sentences) == FAULTS_SHOWN + 1
    assert sentences[-1].startswith("... and 10 more")


class TestMaskValues:
    def test_remedy(self, root, cache):
        pair(root, "R", "0.png", values=(0, 1))
        pair(root, "R", "1.png", values=(0, 1, 2))
        (sentence,) = faults(configure(root), ["R"], cache)
        assert "1 of 2 masks have values that data.classes (foreground: [1]) does not list" in sentence
        assert re.search(r"values found: 0 \(\d\d\.\d\d %\), 1 \(\d\d\.\d\d %\), 2 \(\d\d\.\d\d %\); ", sentence)
        assert f"first mask: {root / 'R/mask/1.png'}" in sentence
        assert "data.classes.foreground=[1,2]" in sentence

    def test_also_on_prepared_images(self, root, cache, decoded):
        pair(root, "R", "0.png", values=(0, 1, 2))
        classes = {"disc": (1, 2), "cup": (2,)}
        prepare(configure(root, classes=classes), ["R"], cache)
        assert "values found: 0 (" in faults(configure(root), ["R"], cache)[0]
        assert decoded == ["0"]

    def test_background_need_not_be_listed(self, root, cache):
        pair(root, "R", "0.png", values=(0, 255))
        assert prepare(configure(root, classes={"vessel": (255,)}), ["R"], cache)["R"].label(0).any()

    def test_smooth_masks(self, root, cache):
        pair(root, "R", "0.png", values=range(50))
        assert "(50 values)" in faults(configure(root), ["R"], cache)[0]


def test_available_domains(root, tmp_path):
    assert available_domains(configure(root)) == ("P", "Q")
    with pytest.raises(UserError, match="does not exist"):
        available_domains(configure(tmp_path / "nowhere"))


def test_synthetic(cache):
    classes = {"disc": (1, 2), "cup": (2,)}
    config = data_config(name="synthetic", classes=classes, limit=2)
    names = available_domains(config)
    domains = prepare(config, names, cache)
    assert {len(domain) for domain in domains.values()} == {2}
    assert domains[names[0]].label(0).shape == (2, 64, 64)
    other = prepare(config.model_copy(update={"seed": 1}), names[:1], cache)
    assert other[names[0]].fingerprint != domains[names[0]].fingerprint


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real images")
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (
            "nuclei",
            {
                "FLUO_256": 334,
                "FLUO_360": 90,
                "FLUO_696": 90,
                "HISTO_PURPLE_BG": 69,
                "HISTO_WHITE_BG": 38,
            },
        ),
        ("vessels", {"CHASE_DB1": 28, "HRF": 42}),
    ],
)
def test_real_images(cache, name, counts):
    config = configure(SHARED / name)
    domains = prepare(config, available_domains(config), cache)
    assert {domain.name: len(domain) for domain in domains.values()} == counts
    for domain in domains.values():
        assert set(np.unique(domain.masks)) == {0, 1}
