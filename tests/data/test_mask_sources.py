"""Masks as people have them: in colours, a file of each class or annotator, under other names and in other folders."""

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from sections import data_config
from tta_bench.data.readers.base import open_reader
from tta_bench.errors import UserError

DISC = np.zeros((64, 64), bool)
DISC[10:50, 10:50] = True
CUP = np.zeros((64, 64), bool)
CUP[20:40, 20:40] = True
VALUES = DISC.astype(np.uint8) + CUP
NESTED = {"disc": (1, 2), "cup": (2,)}


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def picture(path):
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)))


def reader(root, **keys):
    return open_reader(data_config(**{"root": root, "classes": NESTED, **keys}))


def masks(root, **keys):
    return {record.name: record.read(64).mask for record in reader(root, **keys).records("A")}


def refusal(root, **keys):
    with pytest.raises(UserError) as caught:
        masks(root, **keys)
    return "\n".join(caught.value.faults)


def coloured(root):
    shown = np.zeros((64, 64, 3), np.uint8)
    shown[DISC], shown[CUP] = (255, 0, 0), (0, 255, 0)
    picture(root / "A/image/x.png")
    save(root / "A/mask/x.png", shown)
    return {"colours": {"disc": (255, 0, 0), "2": (0, 255, 0)}}


def by_suffix(root):
    picture(root / "A/image/x.png")
    save(root / "A/mask/x_od.png", 255 * DISC)
    save(root / "A/mask/x_oc.png", 255 * CUP)
    return {"class_masks": {"disc": "_od", "cup": "_oc"}}


def by_folder(root):
    picture(root / "A/image/x.png")
    save(root / "A/mask/OD/x.png", DISC)
    save(root / "A/mask/OC/x.png", 255 * CUP)
    return {"class_masks": {"disc": "OD/", "cup": "OC/"}}


def annotated(root):
    picture(root / "A/image/x.png")
    for name, mask in {"a": VALUES, "b": VALUES, "c": 0 * VALUES}.items():
        save(root / f"A/mask/{name}/x.png", mask)
    return {"annotators": ["a/", "b/", "c/"]}


def in_one_folder(root):
    picture(root / "A/scans/x.png")
    save(root / "A/scans/x_mask.png", VALUES)
    return {"image_dir": "scans", "mask_dir": "scans", "mask_suffix": "_mask"}


def other_names(root):
    picture(root / "A/images/x.png")
    save(root / "A/masks/seg_x_1.bmp", VALUES)
    return {"image_dir": "images", "mask_dir": "masks", "mask_prefix": "seg_", "mask_suffix": "_1"}


def slices_in_a_folder(root):
    picture(root / "A/image/x/1.png")
    save(root / "A/mask/x/1.png", VALUES)
    return {}


@pytest.mark.parametrize(
    "way", [coloured, by_suffix, by_folder, annotated, in_one_folder, other_names, slices_in_a_folder]
)
def test_every_way_to_store_a_mask_gives_the_same(tmp_path, way):
    keys = way(tmp_path)
    ((name, mask),) = masks(tmp_path, **keys).items()
    np.testing.assert_array_equal(mask, VALUES)
    assert name == ("x/1" if way is slices_in_a_folder else "x")


@pytest.mark.parametrize(
    ("fusion", "expected"), [("majority", VALUES), ("intersection", 0 * VALUES), ("staple", VALUES)]
)
def test_annotators(tmp_path, fusion, expected):
    if fusion == "staple":
        pytest.importorskip("SimpleITK")
    keys = annotated(tmp_path)
    (mask,) = masks(tmp_path, **keys, fusion=fusion).values()
    np.testing.assert_array_equal(mask, expected)


def test_staple_is_of_each_class_where_classes_nest(tmp_path):
    """Who says cup and who says rim agree that it is disc."""
    pytest.importorskip("SimpleITK")
    keys = annotated(tmp_path)
    files = sorted(path for path in (tmp_path / "A").rglob("*") if path.is_file() and "mask" in str(path))
    moved = [VALUES, np.roll(VALUES, 3, 1), VALUES]
    for path, values in zip(files, moved, strict=False):
        save(path, values)
    (mask,) = masks(tmp_path, **keys, fusion="staple").values()
    everyone = np.logical_and.reduce([values > 0 for values, _ in zip(moved, files, strict=False)])
    assert (mask > 0)[everyone].all()


def test_overlapping_classes_need_a_value_of_their_own(tmp_path):
    picture(tmp_path / "A/image/x.png")
    save(tmp_path / "A/mask/x_a.png", DISC)
    save(tmp_path / "A/mask/x_b.png", CUP)
    parts = {"a": "_a", "b": "_b"}
    assert "400 pixels belong to a and b" in refusal(tmp_path, classes={"a": (1,), "b": (2,)}, class_masks=parts)
    (mask,) = masks(tmp_path, classes={"a": (1, 3), "b": (2, 3)}, class_masks=parts).values()
    np.testing.assert_array_equal(mask, DISC + 2 * CUP)


def test_a_class_that_an_image_lacks_needs_no_file(tmp_path):
    keys = by_suffix(tmp_path)
    (tmp_path / "A/mask/x_oc.png").unlink()
    (mask,) = masks(tmp_path, **keys).values()
    np.testing.assert_array_equal(mask, DISC)


class TestRefused:
    def test_unknown_colours(self, tmp_path):
        keys = coloured(tmp_path)
        save(tmp_path / "A/mask/x.png", np.full((64, 64, 3), (9, 8, 7)))
        assert "[9, 8, 7] (4096 pixels)" in refusal(tmp_path, **keys)

    def test_annotators_of_different_sizes(self, tmp_path):
        keys = annotated(tmp_path)
        save(tmp_path / "A/mask/b/x.png", VALUES[:32])
        assert "64x64 pixels (width x height)" in refusal(tmp_path, **keys)
        assert "64x32" in refusal(tmp_path, **keys)

    def test_an_annotator_who_left_one_out(self, tmp_path):
        keys = annotated(tmp_path)
        (tmp_path / "A/mask/b/x.png").unlink()
        assert "has no mask: add" in refusal(tmp_path, **keys)

    def test_a_smoothed_mask_of_a_class(self, tmp_path):
        keys = by_suffix(tmp_path)
        save(tmp_path / "A/mask/x_od.png", np.arange(4096).reshape(64, 64) % 9)
        assert "9 values and is the mask of disc alone" in refusal(tmp_path, **keys)

    @pytest.mark.parametrize("way", [by_suffix, by_folder, annotated, other_names])
    def test_masks_without_an_image(self, tmp_path, way):
        keys = way(tmp_path)
        (mask,) = list((tmp_path / "A").rglob("*x*.*"))[-1:]
        save(mask.with_name(mask.name.replace("x", "y")), VALUES)
        assert "y" in refusal(tmp_path, **keys)

    @pytest.mark.parametrize(
        "keys",
        [
            {"colours": {"dsc": (0, 0, 1)}},
            {"colours": {"disc": (0, 0, 1), "cup": (0, 0, 1)}},
            {"class_masks": {"disc": "_a"}},
            {"annotators": ["a/", "a/"]},
            {"annotators": ["a/", "b/"], "class_masks": {"disc": "_a", "cup": "_b"}},
            {"fusion": "staple"},
        ],
    )
    def test_unclear_keys(self, tmp_path, keys):
        with pytest.raises(ValidationError, match=r"data\."):
            reader(tmp_path, **keys)


def test_defaults_spelled_out_are_no_other_data_set(tmp_path):
    def dumped(**keys):
        return data_config(classes=NESTED, **keys).model_dump(mode="json")

    spelled_out = {"axis": 2, "image_dir": "image", "mask_dir": "mask", "mask_suffix": "", "intensity": None}
    assert dumped(**spelled_out) == dumped()
    assert dumped(axis=0)["axis"] == 0
    assert dumped(intensity="minmax") != dumped()
