"""Image files, mask files and the lists that name them, damaged in any place."""

import io

import numpy as np
import pytest
from damage import TEXTS, cases, damaged_bytes, damaged_text, outcome
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sections import data_config
from tta_bench.data.readers.base import open_reader

SIZE = 64
LIST = "image,mask\nA/image/1.png,A/mask/1.png\nA/image/2.png,A/mask/2.png\n"


def encoded(array, suffix, mode=None):
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return file.getvalue()


RANDOM = np.random.default_rng(0)
PHOTOGRAPH = RANDOM.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.repeat(np.repeat(RANDOM.integers(0, 2, (8, 8), dtype=np.uint8), 8, 0), 8, 1)
SHADES = np.array([255, 128, 0], np.uint8)[np.add.outer(np.arange(SIZE), np.arange(SIZE)) // 48]
IMAGES = {suffix: encoded(PHOTOGRAPH, suffix) for suffix in ("png", "jpg", "tif", "bmp", "gif")}
MASKS = {
    **{suffix: encoded(LABELS, suffix) for suffix in ("png", "tif", "bmp")},
    "gif": encoded(LABELS, "gif", "P"),
    "jpg": encoded(LABELS * 255, "jpg"),
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def read(**settings):
    """Every image of a data set, as preparation reads it."""
    with outcome():
        reader = open_reader(data_config(max_pixels=10**6, image_size=SIZE, **settings))
        for name in reader.domain_names():
            for record in reader.records(name):
                record.read(SIZE)


@pytest.fixture
def root(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"A/image/{number}.png", IMAGES["png"])
        write(tmp_path / f"A/mask/{number}.png", MASKS["png"])
    return tmp_path


@pytest.mark.parametrize("suffix", IMAGES)
@cases(seeded=12, fuzz=500)
@given(data=st.data())
def test_an_image_is_read_or_refused(suffix, data, tmp_path):
    write(tmp_path / f"A/image/1.{suffix}", data.draw(damaged_bytes(IMAGES[suffix])))
    write(tmp_path / "A/mask/1.png", MASKS["png"])
    read(name="folder", root=tmp_path, classes=None)


@pytest.mark.parametrize("suffix", MASKS)
@cases(seeded=12, fuzz=400)
@given(data=st.data())
def test_a_mask_is_read_or_refused(suffix, data, tmp_path):
    write(tmp_path / "A/image/1.png", IMAGES["png"])
    write(tmp_path / f"A/mask/1.{suffix}", data.draw(damaged_bytes(MASKS[suffix])))
    read(name="folder", root=tmp_path, classes=None)


@cases(seeded=60, fuzz=1200)
@given(content=damaged_text(LIST, ",;\t"))
def test_a_list_is_read_or_refused(content, root):
    write(root / "REFUGE_Valid.csv", content)
    for path in (root / "A/mask").iterdir():
        path.write_bytes(encoded(SHADES, "png"))
    read(name="fundus", root=root, classes={"disc": [1, 2], "cup": [2]}, domains={"D": "REFUGE_Valid"})


@cases(seeded=30, fuzz=400)
@given(name=TEXTS, domain=TEXTS)
def test_names_of_files_and_folders_are_read_or_refused(name, domain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names", numbered=True)
    try:
        write(folder / f"A{domain}" / "image" / f"x{name}.png", IMAGES["png"])
        write(folder / f"A{domain}" / "mask" / f"x{name}.png", MASKS["png"])
    except (OSError, ValueError):  # no name of a file
        return
    read(name="folder", root=folder, classes=None)
