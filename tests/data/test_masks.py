"""Masks mean what they show: how they may be stored, by every codec and palette, and in every reader alike."""

import io

import numpy as np
import pytest
from PIL import Image

from sections import data_section
from tta_bench.data.file_record import FileRecord
from tta_bench.data.images import read_image
from tta_bench.data.masks import read_mask
from tta_bench.data.shades import class_numbers, shares
from tta_bench.errors import UserError
from tta_bench.launch.data_section import validate_data
from tta_bench.schema import SHADES

SIZE = (48, 64)
LOSSLESS = {
    "png": {},
    "bmp": {},
    "gif": {},
    "tga": {},
    "pcx": {},
    "ppm": {},
    "sgi": {},
    "qoi": {},
    "webp": {"lossless": True},
    **{f"{name}.tif": {"compression": name} for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")},
}
LOSSY = {
    "jpg": {"quality": 100, "subsampling": 0},
    "mpo": {},
    "webp": {"quality": 100},
    "jp2": {},
    "avif": {"quality": 100},
    "jpeg.tif": {"compression": "jpeg"},
}


@pytest.fixture
def disc():
    """Shades 0, 128 and 255 as in the paper's data: cup, rim and background."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(y - 24, x - 32)
    return np.select([distance < 8, distance < 16], [0, 128], 255).astype(np.uint8)


def save(path, pixels, **options):
    """A file of these pixels; formats that know no grey get three equal channels."""
    image = Image.fromarray(pixels)
    if path.suffix in (".qoi", ".webp", ".mpo", ".avif"):
        image = image.convert("RGB")
    image.save(path, **options)
    return path


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    (sentence,) = caught.value.faults
    return sentence


@pytest.mark.parametrize("grey", [False, True])
class TestCodecs:
    @pytest.mark.parametrize("name", LOSSLESS)
    def test_lossless_files_keep_every_value(self, tmp_path, disc, name, grey):
        path = save(tmp_path / f"mask.{name}", disc, **LOSSLESS[name])
        np.testing.assert_array_equal(read_mask(path, grey=grey), disc)

    @pytest.mark.parametrize("name", LOSSY)
    def test_lossy_files_are_refused_whatever_they_hold_and_are_called(self, tmp_path, disc, name, grey):
        for pixels in (disc, np.zeros_like(disc)):
            path = save(tmp_path / f"mask.{name}", pixels, **LOSSY[name])
            for alias in (path, path.rename(tmp_path / "mask.png")):
                if alias.exists():
                    sentence = refusal(read_mask, alias, grey=grey)
                    assert "need not keep the exact values" in sentence
                    assert "export the masks anew" in sentence

    def test_images_may_be_lossy(self, tmp_path, disc, grey):
        assert read_image(save(tmp_path / "image.jpg", disc)).shape == (*SIZE, 3)

    def test_extended_webp(self, tmp_path, disc, grey):
        exif = Image.Exif()
        exif[0x010E] = "with other chunks before the picture"
        path = save(tmp_path / "mask.webp", disc, lossless=True, exif=exif)
        np.testing.assert_array_equal(read_mask(path, grey=grey), disc)
        assert "lossy WebP" in refusal(read_mask, save(path, disc, quality=100, exif=exif), grey=grey)


def with_palette(path, indices, colours, **options):
    image = Image.fromarray(indices, "P")
    image.putpalette(np.array(colours, np.uint8).tobytes())
    image.save(path, **options)
    return path


BLACK, WHITE, RED, BLUE, GREY = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255), (128, 128, 128)


class TestPalettes:
    @pytest.fixture
    def indices(self):
        return np.resize(np.array([0, 0, 1, 0, 0], np.uint8), SIZE)

    @pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
    @pytest.mark.parametrize("padding", [0, 254])
    @pytest.mark.parametrize("inverted", [False, True])
    def test_black_and_white_is_a_one_bit_picture(self, tmp_path, indices, suffix, padding, inverted):
        """White is foreground, whichever index it has: 20 % and not 80 %."""
        colours = [WHITE, BLACK] if inverted else [BLACK, WHITE]
        stored = 1 - indices if inverted else indices
        path = with_palette(tmp_path / f"mask.{suffix}", stored, colours + [BLACK] * padding)
        if suffix == "bmp" and not (inverted or padding):
            assert "deeper BMP" in refusal(read_mask, path)  # which Pillow misreads
            return
        np.testing.assert_array_equal(read_mask(path, grey=True), 255 * indices)
        if Image.open(path).mode != "L":  # as Pillow opens a GIF or BMP file whose palette counts the greys
            np.testing.assert_array_equal(read_mask(path), indices)
        one_bit = tmp_path / "one_bit.png"
        Image.fromarray(indices > 0).save(one_bit)
        np.testing.assert_array_equal(read_mask(one_bit), indices)

    @pytest.mark.parametrize("grey", [False, True])
    def test_greys_are_read_as_displayed(self, tmp_path, grey):
        indices = np.resize(np.arange(3, dtype=np.uint8), SIZE)
        path = with_palette(tmp_path / "mask.png", indices, [WHITE, GREY, BLACK])
        np.testing.assert_array_equal(read_mask(path, grey=grey), np.array([255, 128, 0])[indices])

    def test_colours_number_the_classes(self, tmp_path):
        indices = np.resize(np.arange(3, dtype=np.uint8), SIZE)
        for name, palette in {
            "voc": [BLACK, RED, BLUE],
            "white": [WHITE, RED, BLUE],
            "no black": [RED, BLUE, GREY],
        }.items():
            path = with_palette(tmp_path / f"{name}.png", indices, palette)
            np.testing.assert_array_equal(read_mask(path), indices)
            assert "holds colours" in refusal(read_mask, path, grey=True)

    @pytest.mark.parametrize("palette", [[RED, BLACK], [RED, WHITE], [BLUE, BLACK, RED], [WHITE, BLACK, RED]])
    def test_colours_with_a_second_background_are_refused(self, tmp_path, indices, palette):
        path = with_palette(tmp_path / "mask.png", indices, palette)
        assert "it is open which is the background" in refusal(read_mask, path)

    def test_what_a_palette_does_not_show_is_refused(self, tmp_path, indices):
        path = with_palette(tmp_path / "mask.png", indices, [BLACK, BLACK, WHITE])
        assert "in one shade" in refusal(read_mask, path)
        path = with_palette(tmp_path / "mask.bmp", 200 * indices, [BLACK, RED] + [BLUE] * 10)
        assert "index 200 of a palette of 12 colours" in refusal(read_mask, path)

    def test_transparent_greys_are_refused(self, tmp_path, indices):
        path = with_palette(tmp_path / "mask.png", indices, [BLACK, WHITE], transparency=0)
        assert "transparent" in refusal(read_mask, path)
        path = with_palette(tmp_path / "mask.png", indices, [BLACK, RED], transparency=0)
        np.testing.assert_array_equal(read_mask(path), indices)  # the index is the class, whatever shows


def test_transparent_shades_are_refused(tmp_path, disc):
    path = tmp_path / "mask.png"
    Image.fromarray(disc).save(path, transparency=255)
    assert "transparent" in refusal(read_mask, path)


def test_deep_files_that_count_from_white_are_refused(tmp_path):
    path = tmp_path / "mask.tif"
    Image.fromarray(np.ones((64, 64), np.uint16)).save(path, tiffinfo={262: 0})
    if Image.open(path).tag_v2[262] != 0:
        pytest.skip("this Pillow does not write such files")
    assert "WhiteIsZero" in refusal(read_mask, path)


def test_a_flipped_byte_never_changes_a_png(tmp_path, disc):
    path = save(tmp_path / "mask.png", disc)
    content = path.read_bytes()
    accepted = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x11
        path.write_bytes(damaged)
        try:
            mask = read_mask(path)
        except UserError:
            continue
        accepted += 1
        np.testing.assert_array_equal(mask, disc)
    assert accepted < 20  # the last chunk, which holds nothing


class TestShades:
    def test_default(self, disc, tmp_path):
        np.testing.assert_array_equal(class_numbers(disc, SHADES, tmp_path), np.array([2, 1, 0])[disc // 127])

    @pytest.mark.parametrize("odd", [1, 64, 127, 129, 254])
    def test_any_other_code_is_refused_with_its_share(self, disc, tmp_path, odd):
        disc[0, :32] = odd
        sentence = refusal(class_numbers, disc, SHADES, tmp_path / "m.png")
        assert f"m.png has grey codes without a meaning: {odd} (1.04 %) (data.shades={{background: [255]" in sentence
        assert "data.shades={…}" in sentence

    def test_interpolated_masks(self, disc, tmp_path):
        smooth = np.asarray(Image.fromarray(disc).resize((128, 96), Image.Resampling.BILINEAR))
        sentence = refusal(class_numbers, smooth, SHADES, tmp_path / "m.png")
        assert "values)" in sentence
        assert "smoothing or lossy compression" in sentence

    @pytest.mark.parametrize("values", [(0, 1, 2), (0, 128), (0,)])
    def test_class_numbers_and_masks_without_background(self, tmp_path, values):
        sentence = refusal(class_numbers, np.resize(np.array(values, np.uint8), SIZE), SHADES, tmp_path / "m.png")
        assert "m.png has" in sentence
        assert "data=folder" in sentence

    def test_declared_codes(self, disc, tmp_path):
        other = np.array([10, 20, 254], np.uint8)[disc // 127]
        other[0, 0] = 255
        shades = {"background": (254, 255), "rim": (20,), "cup": (10,)}
        np.testing.assert_array_equal(class_numbers(other, shades, tmp_path), class_numbers(disc, SHADES, tmp_path))

    def test_shares(self):
        assert shares({0: 99_999, 3: 1}) == "0 (100.00 %), 3 (< 0.01 %)"
        assert shares(dict.fromkeys(range(20), 1)).endswith("9 (5.00 %), ... (20 values)")


GIVEN = {"name": "fundus", "root": "/x", "classes": {"disc": [1, 2], "cup": [2]}, "domains": {"D": "REFUGE_Valid"}}
BASE = data_section(**GIVEN)


class TestConfiguration:
    def test_the_default_is_no_part_of_the_identity(self):
        for default in (None, {name: list(codes) for name, codes in SHADES.items()}):
            config = validate_data({**BASE, "shades": default, "max_pixels": 10**9})
            assert config.shades is None
            assert config.max_pixels == 10**9
            assert set(config.model_dump(mode="json")) == {*GIVEN, "image_size", "limit", "seed"}

    def test_other_codes_are(self):
        config = validate_data({**BASE, "shades": '{"background": [254, 255], "cup": [0]}'})
        assert config.model_dump(mode="json")["shades"] == {"background": [254, 255], "cup": [0]}

    @pytest.mark.parametrize(
        ("shades", "fault"),
        [
            ({"background": [255], "rim": [255]}, "two meanings"),
            ({"background": [255]}, "of rim, cup or both"),
            ({"rim": [128], "cup": [0]}, "codes of background"),
            ({"background": [255], "cup": []}, "lists no grey code"),
            ({"background": [255], "cupp": [0]}, "did you mean 'data.shades.cup'?"),
            ({"background": [256], "cup": [0]}, "less than or equal to 255"),
            ("[1", "data.shades"),
        ],
    )
    def test_unclear_shades_are_refused(self, shades, fault):
        assert fault in refusal(validate_data, {**BASE, "shades": shades})

    def test_folder_has_classes_instead(self):
        section = {**BASE, "name": "folder", "domains": None, "shades": {"background": [0], "cup": [1]}}
        sentence = refusal(validate_data, section)
        assert "data.classes" in sentence


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I", "I;16"])
def test_class_numbers_are_kept_in_any_depth_and_in_equal_channels(tmp_path, mode):
    indices = np.random.default_rng(1).integers(0, 3, SIZE, dtype=np.uint8)
    path = tmp_path / "mask.tif"
    deep = {"I": np.int32, "I;16": np.uint16}.get(mode)
    Image.fromarray(indices.astype(deep)).save(path) if deep else Image.fromarray(indices).convert(mode).save(path)
    mask = read_mask(path)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, indices)


@pytest.mark.parametrize("shades", [None, SHADES])
@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "LA", "P", "I", "I;16"])
def test_every_reader_reads_every_way_to_store_a_mask_alike(tmp_path, shades, mode):
    """A black and white mask is the same partition of the pixels, however it is stored; never the inverse."""
    white = np.zeros(SIZE, bool)
    white[10:30, 10:30] = True
    path = tmp_path / ("mask.tif" if mode == "I" else "mask.png")
    if mode in ("I", "I;16"):
        Image.fromarray((white * 255).astype(np.uint16 if mode == "I;16" else np.int32)).save(path)
    else:
        Image.fromarray((white * 255).astype(np.uint8)).convert(mode).save(path)
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    sample = FileRecord("a", tmp_path / "image.png", path, shades=shades).read(64)
    background = 0 if shades is None else 2
    foreground = (1 if mode == "1" else 255) if shades is None else 0
    np.testing.assert_array_equal(sample.mask, np.where(white, foreground, background))


def test_no_format_changes_an_image_on_its_way(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    for suffix in ("png", "bmp", "tif", "ppm", "tga"):
        path = tmp_path / f"image.{suffix}"
        Image.open(buffer).save(path)
        np.testing.assert_array_equal(read_image(path), rgb)
