"""Attributes of images: measured, and given in a table."""

import numpy as np
import pytest

from tta_bench.data.attributes import attribute
from tta_bench.data.domain import Domain
from tta_bench.data.skin_tone import CORNERS, PATCH, SIDE, angle, fitzpatrick, lab, skin_type, without_hair
from tta_bench.errors import UserError


@pytest.fixture
def domains():
    images = np.stack([np.full((64, 64, 3), 40 * k, np.uint8) for k in range(4)])
    masks = np.zeros((4, 64, 64), np.uint8)
    masks[1, :32] = 1
    return {"A": Domain("A", ("a0", "a1", "a2", "a3"), images, masks, {"disc": (1,)}, "")}


@pytest.mark.parametrize(
    ("lightness", "yellow", "ita", "skin"),
    [(75, 10, 68.2, 1), (65, 15, 45.0, 2), (60, 18, 29.1, 3), (55, 18, 15.5, 5), (53, 15, 11.3, 5), (45, 15, -18.4, 6)],
)
def test_angles_and_their_types(lightness, yellow, ita, skin):
    assert angle(lightness, yellow) == pytest.approx(ita, abs=0.05)
    assert fitzpatrick(angle(lightness, yellow)) == skin


def test_edges_belong_to_the_darker_type():
    assert [fitzpatrick(edge) for edge in (55.01, 55, 41, 28, 19, 10)] == [1, 2, 3, 4, 5, 6]
    assert angle(60, 0) == 90
    assert angle(40, 0) == -90


def test_the_lightest_patch_decides_and_the_middle_does_not():
    dark, light = (90, 60, 40), (245, 220, 200)
    image = np.full((SIDE, SIDE, 3), dark, np.uint8)
    assert skin_type(image) == 6
    middle = image.copy()
    middle[60:200, 60:200] = light
    assert skin_type(middle) == 6
    for row, column in CORNERS:
        painted = image.copy()
        painted[row : row + PATCH, column : column + PATCH] = light
        assert skin_type(painted) == 1


def test_hair_is_painted_over():
    skin = np.full((64, 64, 3), (200, 160, 130), np.uint8)
    hairy = skin.copy()
    hairy[:, 30:32] = 20
    assert np.array_equal(without_hair(hairy), skin)


def test_colours_of_cielab():
    found = lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8))
    assert found == pytest.approx(np.array([[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]]), abs=0.1)


def test_measured_attributes(domains):
    brightness, size = (attribute(name, domains, None) for name in ("brightness", "size"))
    assert [brightness["A", k] for k in range(4)] == pytest.approx([0, 40 / 255, 80 / 255, 120 / 255])
    assert [size["A", k] for k in range(4)] == [0, 0.5, 0, 0]
    assert set(attribute("domain", domains, None).values()) == {"A"}
    assert set(attribute("ita", domains, None).values()) <= {f"type {k}" for k in range(1, 7)}


def test_attributes_of_a_table_by_name_or_path(domains, tmp_path):
    file = tmp_path / "given.csv"
    file.write_text("domain,image,device\nA,a0,X\nA,A/image/a1.png,Y\nB,a2,Y\n")
    assert attribute("device", domains, file) == {("A", 0): "X", ("A", 1): "Y"}
    with pytest.raises(UserError, match="no attribute 'devise': did you mean 'device'"):
        attribute("devise", domains, file)
    with pytest.raises(UserError, match=r"others stand in a table: data\.attributes=FILE\.csv"):
        attribute("device", domains, None)
    file.write_text("domain,image,device\nC,a0,X\n")
    with pytest.raises(UserError, match="names none of the images"):
        attribute("device", domains, file)
    rows = "".join(f"A,a{k},{k}\n" for k in range(4))
    file.write_text(f"domain,image,age\n{rows}")
    assert attribute("age", domains, file) == {("A", k): str(k) for k in range(4)}
