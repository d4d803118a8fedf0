"""Every format gives the same picture, precision survives to the network, and volumes are slices in order."""

import numpy as np
import pytest
import torch
from PIL import Image

from sections import data_config
from tta_bench.data.decoders.base import DECODERS, Stack, decoder_of, slices_of, stem_of, volume_of
from tta_bench.data.examination import suspicions
from tta_bench.data.file_record import FileRecord
from tta_bench.data.intensity import grey_levels
from tta_bench.data.prepare import prepare
from tta_bench.errors import UserError
from tta_bench.ops.preprocessing import Preprocessing
from tta_bench.runtime.files_section import IntensityConfig

cv2 = pytest.importorskip("cv2")
GREY = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (64, 80, 3), dtype=np.uint8)
FINE = np.random.default_rng(2).integers(0, 65536, (64, 80), dtype=np.uint16)


def opencv(path, values):
    assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)


def pillow(path, values):
    Image.fromarray(values).save(path)


def numpy(path, values):
    (np.savez if path.suffix == ".npz" else np.save)(path, values)


def itk(path, values):
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=values.ndim == 3), str(path))


def levels(path, intensity=None):
    return FileRecord("x", path, path, labelled=False, intensity=intensity).levels()


@pytest.mark.parametrize(
    ("name", "write", "values"),
    [
        ("grey.png", pillow, GREY),
        ("grey.bmp", pillow, GREY),
        ("grey.gif", pillow, GREY),
        ("grey.tif", pillow, GREY),
        ("grey.npy", numpy, GREY),
        ("grey.mha", itk, GREY),
        ("rgb.nrrd", itk, RGB),
        ("rgb.npz", numpy, RGB),
        ("rgb.webp", lambda path, values: Image.fromarray(values).save(path, lossless=True), RGB),
        ("grey16.png", pillow, GREY * np.uint16(257)),
        ("grey16.tif", pillow, GREY * np.uint16(257)),
        ("grey16.pgm", opencv, GREY * np.uint16(257)),
        ("rgb16.png", opencv, RGB * np.uint16(257)),
        ("rgb16.tif", opencv, RGB * np.uint16(257)),
        ("rgb16.npy", numpy, RGB * np.uint16(257)),
    ],
)
def test_whole_grey_levels_are_the_picture_of_8_bits_bit_for_bit(tmp_path, name, write, values):
    write(tmp_path / name, values)
    read = levels(tmp_path / name)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, RGB if values.ndim == 3 else np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("name", "write", "values"),
    [
        ("a.png", pillow, FINE),
        ("a.tif", pillow, FINE),
        ("float.tif", pillow, FINE.astype(np.float32) * 3 - 7),
        ("int32.tif", pillow, FINE.astype(np.int32) - 40_000),
        ("float.npy", numpy, FINE.astype(np.float64) / 65535),
        ("rgb.tif", opencv, np.stack([FINE, FINE, FINE], axis=2)),
        ("float_rgb.tif", opencv, np.stack([FINE, FINE, FINE], axis=2).astype(np.float32)),
    ],
)
def test_every_value_of_16_bits_stays_apart_up_to_the_network(tmp_path, name, write, values):
    write(tmp_path / name, values)
    sample = FileRecord("x", tmp_path / name, tmp_path / name, labelled=False).read(64)
    assert sample.image.dtype == np.float32
    found = levels(tmp_path / name)[..., 0]
    order = np.argsort(FINE.ravel(), kind="stable")
    assert (np.diff(found.ravel()[order]) > 0).sum() == len(np.unique(FINE)) - 1
    seen = Preprocessing().unit_range(torch.from_numpy(sample.image).permute(2, 0, 1))
    assert len(seen.unique()) > 3000


@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [
        ({"minmax": True}, -50, 149),
        ({"window": (0, 100)}, 0, 100),
        ({"percentile": (1, 99)}, *np.percentile(np.arange(-50, 150), [1, 99])),
    ],
)
def test_intensity(rule, low, high):
    values = np.arange(-50, 150).reshape(1, 10, 20)
    expected = (np.clip(values, low, high) - low) / (high - low) * 255
    np.testing.assert_allclose(grey_levels(Stack(values), IntensityConfig(**rule)), expected, rtol=1e-6)
    inverted = grey_levels(Stack(values, inverted=True), IntensityConfig(**rule))
    np.testing.assert_allclose(inverted, 255 - expected, atol=1e-4)


@pytest.mark.parametrize("rule", [{}, {"minmax": True, "window": (0, 1)}, {"window": (3, 3)}, {"percentile": (99, 1)}])
def test_an_intensity_is_one_rule_with_ascending_ends(rule):
    with pytest.raises(ValueError, match=r"data\.intensity"):
        IntensityConfig(**rule)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_and_volume_are_inverse(axis):
    volume = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(volume_of(slices_of(volume, axis), axis), volume)


BAD = {
    "complex.npy": (np.ones((64, 64), complex), "complex"),
    "nan.npy": (np.full((64, 64), np.nan), "NaN"),
    "4d.npy": (np.ones((2, 3, 4, 5)), "shape [2, 3, 4, 5]"),
    "fractions.npy": (np.eye(64) / 2, "fractions"),
    "large.npy": (np.full((64, 64), 300), "reach from 300"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_and_no_mask_is_refused_by_name(tmp_path, name):
    values, why = BAD[name]
    np.save(tmp_path / name, values)
    path = tmp_path / name
    with pytest.raises(UserError, match=name) as caught:
        decoder_of(path).mask(path, 2, 10**6)
    assert why in str(caught.value)


def test_a_file_of_several_arrays_names_them(tmp_path):
    np.savez(tmp_path / "both.npz", image=GREY, label=GREY % 2)
    np.testing.assert_array_equal(levels(tmp_path / "both.npz")[..., 0], GREY)
    np.testing.assert_array_equal(decoder_of(tmp_path / "both.npz").mask(tmp_path / "both.npz", 2, 10**6)[0], GREY % 2)
    np.savez(tmp_path / "odd.npz", left=GREY, right=GREY)
    with pytest.raises(UserError, match="left, right"):
        levels(tmp_path / "odd.npz")


@pytest.mark.parametrize("name", sorted(DECODERS.names()))
def test_every_decoder_explains_damage_and_absence(tmp_path, name):
    decoder = DECODERS.get(name)()
    for suffix in sorted(decoder.suffixes())[:6]:
        path = tmp_path / f"x{suffix}"
        for content in (None, b"", b"not an image" * 99):
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(UserError, match=f"x{suffix}"):
                decoder.read(path, 2, 10**6)


def test_names(tmp_path):
    assert [stem_of(tmp_path / name) for name in ("a.nii.gz", "a.b.png", "a.NII", "a.xyz", ".nii")] == [
        "a",
        "a.b",
        "a",
        "a",
        ".nii",
    ]


@pytest.mark.parametrize("fit", ["stretch", "pad", "tile"])
def test_an_image_is_the_same_whatever_depth_and_colours_its_neighbours_have(tmp_path, fit):
    """Domain M mixes grey and RGB of 8 and 16 bits; domain E has the same pictures in RGB of 8 bits alone."""
    rgb = [
        np.repeat(GREY[..., None], 3, axis=2),
        RGB,
        np.repeat(GREY[::-1, :, None], 3, axis=2),
        RGB[::-1],
        RGB[:, ::-1],
    ]
    mixed = [GREY, RGB, GREY[::-1] * np.uint16(257), RGB[::-1] * np.uint16(257), np.ascontiguousarray(RGB[:, ::-1])]
    for k, (plain, deep) in enumerate(zip(rgb, mixed, strict=True)):
        for domain, values in (("E", plain), ("M", deep)):
            for folder in ("image", "mask"):
                (tmp_path / domain / folder).mkdir(parents=True, exist_ok=True)
            opencv(tmp_path / domain / f"image/{k}.png", values)
            pillow(tmp_path / domain / f"mask/{k}.png", GREY % 2)
    opencv(tmp_path / "M/image/5.png", FINE)  # for which the array becomes one of floating point
    pillow(tmp_path / "M/mask/5.png", GREY % 2)
    domains = prepare(data_config(root=tmp_path, fit=fit, image_size=64), ["E", "M"], tmp_path / "cache")
    for k in range(5):
        assert torch.equal(domains["E"].image(k), domains["M"].image(k))
    assert len(domains["M"].image(5).unique()) > 3000
    assert domains["E"].images[0].dtype == np.uint8


def test_files_of_16_bits_that_use_12_are_told_of(tmp_path):
    (tmp_path / "A/image").mkdir(parents=True)
    pillow(tmp_path / "A/image/8.png", GREY)
    pillow(tmp_path / "A/image/12.png", FINE // 16)
    told = {}
    for rule in (None, {"minmax": True}):
        config = data_config(root=tmp_path, image_size=64, intensity=rule)
        told[rule is None] = suspicions(prepare(config, ["A"], tmp_path / "cache")["A"])
    assert told[False] == []
    (sentence,) = told[True]
    assert "1 of 2 images, such as 12, are almost black" in sentence
    assert "data.intensity={minmax: true}" in sentence


@pytest.mark.parametrize("values", [GREY, FINE, RGB, FINE.astype(np.float32), (RGB / 255).astype(np.float32)])
def test_a_file_of_several_pages_says_how_to_split_it(tmp_path, values):
    path = tmp_path / "stack.tif"
    assert cv2.imwritemulti(str(path), [values] * 3)
    with pytest.raises(UserError, match=r"stack\.tif holds 3 frames") as caught:
        levels(path)
    assert "each as a file in a folder stack, which is a case then" in str(caught.value)
