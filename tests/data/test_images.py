"""Decoding of single files: what is accepted, how it is converted, and how the rest is refused."""

import contextlib
import io
import os
import socket
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from tta_bench.data.images import read_image, stored_size
from tta_bench.data.masks import read_mask
from tta_bench.errors import UserError
from tta_bench.ops.preprocessing import resize_image, resize_mask

SIZE = (64, 48)  # width, height
NOISE = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)


@pytest.fixture
def rgb():
    return NOISE.copy()


@pytest.fixture
def indices():
    return np.random.default_rng(1).integers(0, 3, SIZE[::-1], dtype=np.uint8)


def refusal(read, path, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    (sentence,) = caught.value.faults
    assert str(path) in sentence
    assert ": " in sentence  # what is wrong: the remedy
    return sentence


def png(width, height, depth, colour, rows=b""):
    """A PNG that says to be of this size and depth and holds these rows: what Pillow cannot write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(rows) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


DEEP = png(64, 64, 16, 2, b"".join(b"\0" + bytes(range(48)) * 8 for _ in range(64)))
"""16 bits in each of three channels."""


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("RGB", "bmp"),
        ("RGB", "tif"),
        ("RGB", "jpg"),
        ("L", "png"),
        ("L", "jpg"),
        ("1", "png"),
        ("P", "png"),
        ("P", "gif"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("YCbCr", "tif"),
    ],
)
def test_reads_as_pillow_converts(tmp_path, rgb, mode, suffix):
    path = tmp_path / f"eye.{suffix}"
    Image.fromarray(rgb).convert(mode).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path, rgb, mode):
    image = Image.fromarray(rgb).convert(mode)
    path = tmp_path / "eye.png"
    image.save(path)
    np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))
    image.putalpha(Image.fromarray(rgb[..., 0]))
    image.save(path)
    assert "flatten" in refusal(read_image, path)


def transparent_palette(path):
    palette = Image.fromarray(NOISE).convert("P")
    palette.save(path, "PNG", transparency=int(np.asarray(palette)[0, 0]))


def transparent_mask(path):
    mask = Image.fromarray(NOISE[..., 0]).convert("LA")
    mask.putalpha(0)
    mask.save(path, "PNG")


def three_frames(path):
    frame = Image.fromarray(NOISE)
    frame.save(path, "TIFF", save_all=True, append_images=[frame, frame])


REFUSED = {
    "missing": (read_image, lambda path: None, "does not exist"),
    "empty": (read_image, lambda path: path.touch(), "0 bytes"),
    "folder": (read_image, lambda path: path.mkdir(), "cannot be read"),
    "text": (read_image, lambda path: path.write_text("name,age\n"), "not an image"),
    "palette": (read_image, transparent_palette, "transparent"),
    "16-bit coloured mask": (read_mask, lambda path: path.write_bytes(DEEP), "16 bits per channel"),
    "float mask": (read_mask, Image.fromarray(np.eye(64, dtype=np.float32)), "one small integer per pixel"),
    "LAB": (read_image, Image.new("LAB", SIZE), "LAB"),
    "frames": (read_image, three_frames, "3 frames"),
    "mask beyond a byte": (read_mask, Image.fromarray(np.array([[0, 300]], np.uint16)), "from 0 to 300"),
    "coloured mask": (read_mask, Image.fromarray(NOISE), "replace each colour"),
    "transparent mask": (read_mask, transparent_mask, "transparent"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_for_sure_is_refused_with_a_sentence(tmp_path, case):
    read, content, words = REFUSED[case]
    path = tmp_path / "eye.tif"
    content.save(path) if isinstance(content, Image.Image) else content(path)
    assert words in refusal(read, path)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "loop", "dangling"])
def test_what_only_looks_like_a_file_never_blocks(tmp_path, read, kind):
    path = tmp_path / "eye.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
            server.bind(str(path))
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path, "dangling": tmp_path / "nowhere"}[kind])
    assert stored_size(path) == (0, 0)
    sentence = refusal(read, path)
    assert "does not exist" in sentence if kind == "dangling" else "cannot be read (" in sentence


@pytest.mark.parametrize("read", [read_image, read_mask])
class TestSize:
    @pytest.mark.parametrize("side", [20_000, 65_535, 2**31 - 1])
    def test_more_than_the_limit_is_refused_by_the_header(self, tmp_path, read, side):
        path = tmp_path / "eye.png"
        path.write_bytes(png(side, side, 8, 0))
        sentence = refusal(read, path)
        assert f"{side}x{side} pixels, more than data.max_pixels=178956970" in sentence
        assert f"set data.max_pixels={side * side}" in sentence

    def test_the_limit_is_ours_not_pillows(self, tmp_path, read, rgb, monkeypatch):
        path = tmp_path / "eye.png"
        Image.fromarray(rgb[..., 0]).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read(path).shape[:2] == (48, 64)
        assert Image.MAX_IMAGE_PIXELS == 100
        assert "64x48 pixels, more than data.max_pixels=3071" in refusal(read, path, max_pixels=3071)

    @pytest.mark.parametrize("size", [(0, 64), (64, 0), (0, 0)])
    def test_no_pixels(self, tmp_path, read, size):
        path = tmp_path / "eye.png"
        path.write_bytes(png(*size, 8, 0))
        refusal(read, path)
        path = tmp_path / "eye.pgm"
        path.write_bytes(b"P5 %d %d 255 " % size)
        refusal(read, path)


@pytest.mark.parametrize("suffix", ["eps", "ico", "psd", "html"])
def test_other_kinds_of_files_are_not_even_opened(tmp_path, suffix):
    """EPS would start a PostScript interpreter."""
    path = tmp_path / f"eye.{suffix}"
    if suffix in ("eps", "ico"):
        Image.new("RGB", SIZE).save(path)
    else:
        path.write_bytes({"psd": b"8BPS\0\1" + bytes(40), "html": b"<html>404</html>"}[suffix])
    assert "is not an image of a kind that is read (BMP, " in refusal(read_image, path)


@pytest.mark.parametrize(
    "suffix", ["png", "jpg", "bmp", "tif", "gif", "webp", "tga", "ppm", "pcx", "sgi", "jp2", "qoi"]
)
def test_damage_of_any_kind_is_a_sentence(tmp_path, rgb, suffix):
    """Bytes flipped, cut and repeated anywhere: a picture or one sentence, whatever Pillow raises."""
    path = tmp_path / f"eye.{suffix}"
    Image.fromarray(rgb).save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for case in range(60):
        damaged = bytearray(content)
        start = int(rng.integers(0, 64 if case % 2 else len(damaged)))
        if case % 3 == 0:
            del damaged[start:]
        else:
            damaged[start : start + 4] = rng.bytes(4)
        path.write_bytes(damaged)
        for read in (read_image, read_mask):
            try:
                assert read(path, max_pixels=10**6).dtype == np.uint8
            except UserError as error:
                (sentence,) = error.faults
                assert str(path) in sentence


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_truncated(tmp_path, rgb, suffix, read):
    path = tmp_path / f"eye.{suffix}"
    Image.fromarray(rgb).convert("L").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(read, path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation(tmp_path, rgb, suffix):
    path = tmp_path / f"eye.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(path, exif=exif)
    assert "orientation 6" in refusal(read_image, path)
    exif[0x0112] = 1
    Image.fromarray(rgb).save(path, exif=exif)
    assert read_image(path).shape == rgb.shape


@pytest.mark.parametrize("size", [32, 64, 96])
def test_resize_is_the_authors(rgb, indices, size):
    image, mask = resize_image(rgb, size, size), resize_mask(indices, size, size)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    expected = Image.open(buffer).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image, np.asarray(expected))
    expected = Image.fromarray(indices).resize((size, size), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(mask, np.asarray(expected))
    assert image.dtype == mask.dtype == np.uint8
