"""Decode one image file with Pillow into a plain uint8 array, or refuse it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tta_bench.data.files import require_file
from tta_bench.errors import UserError

# Pillow knows more formats; some of those start other programs (EPS) or hold several pictures (ICO).
_LOSSLESS = ("BMP", "GIF", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA")
_FORMATS = (*_LOSSLESS, "AVIF", "JPEG", "JPEG2000", "TIFF", "WEBP")
_LOSSLESS_TIFF = (
    *("raw", "packbits", "lzma", "zstd", "group3", "group4", "tiff_ccitt", "tiff_lzw", "tiff_raw_16"),
    *("tiff_deflate", "tiff_adobe_deflate", "tiff_thunderscan"),
)
_COLOUR_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA", "PA")
INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION_TAG = 0x0112

MAX_PIXELS = 178_956_970
"""Pillow's own limit against bombs, for whoever reads a file without a configuration and its ``data.max_pixels``."""

_opening = threading.Lock()


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image as RGB.

    Grey, palette, CMYK and YCbCr images are converted as by ``PIL.Image.convert("RGB")``; an alpha channel
    that is opaque everywhere is dropped.

    Returns:
        uint8 ``[height, width, 3]``, 0-255.

    Raises:
        UserError: missing, no regular file, empty, truncated or not an image; more than ``max_pixels``; several
            frames; an EXIF orientation; 16-bit, 32-bit or floating-point values; real transparency.
    """
    image = decode(path, max_pixels)
    if image.mode in INTEGER_MODES or image.mode == "F":
        values = "floating-point values" if image.mode == "F" else "more than 8 bits per pixel"
        raise UserError(_too_deep(path, f"{values} (Pillow mode {image.mode})"))
    if image.mode not in _COLOUR_MODES:
        raise UserError(f"{path}: colour mode {image.mode} is not read: save it as an 8-bit RGB PNG")
    require_opaque(path, image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def stored_pixels(path: Path) -> int:
    """Width times height by the header of an image file; 0 if that cannot be told, which decoding will explain."""
    try:
        require_file(path)
        with _open(path) as image:
            return image.width * image.height
    except Exception:  # Pillow's plug-ins raise errors of many types on damaged files
        return 0


@cache
def image_suffixes() -> frozenset[str]:
    """Endings of file names of the formats that are read, in lower case with their dot."""
    formats = _available_formats()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats)


def value_counts(mask: np.ndarray) -> dict[int, int]:
    """How many pixels of a uint8 mask have each value that occurs, ascending by value."""
    counts = Image.fromarray(mask).histogram()
    return {value: count for value, count in enumerate(counts) if count}


def decode(path: Path, max_pixels: int, *, lossless: bool = False) -> Image.Image:
    """Open and decode a file completely, so that a truncated one is found here and not during a run.

    Args:
        path: the file.
        max_pixels: refuse larger ones.
        lossless: refuse codecs that may have changed values.

    Raises:
        UserError: as :func:`read_image`, apart from what its mode and its transparency tell.
    """
    with _sentences(path):
        if require_file(path) == 0:
            raise UserError(f"{path} is empty (0 bytes): copy it again from its origin")
        with _open(path) as image:
            _refuse_by_header(path, image, max_pixels, lossless)
            # Pillow drops the lower bytes of deep colour files silently; only its raw mode shows the depth.
            raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
            # Pillow turns TIFF files upright while loading and then forgets the tag.
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
            image.load()
            if image.format == "PNG":
                _verify(path)
            if image.format == "BMP" and image.mode == "1" and _bmp_depth(path) != 1:
                # Pillow takes the bytes of such a file for bits.
                raise UserError(f"{path} has a palette of black and white in a deeper BMP file: save it as PNG")
    if ";16" in raw_modes and image.mode not in INTEGER_MODES:
        raise UserError(_too_deep(path, "16 bits per channel"))
    if orientation not in (0, 1):
        # Whether image and mask match before or after the rotation cannot be known, so do not guess.
        raise UserError(
            f"{path} is to be shown turned (EXIF orientation {orientation}); some programs do so and some do not, "
            "so an image and its mask may not match: save it, and its mask if there is one, upright without that tag"
        )
    return image


def _refuse_by_header(path: Path, image: Image.Image, max_pixels: int, lossless: bool) -> None:
    """Refuse what is empty, too large, compressed in another way than asked for, or more than one picture."""
    width, height = image.size
    if width < 1 or height < 1:
        raise UserError(f"{path} has {width}x{height} pixels: remove it or save it anew")
    if width * height > max_pixels:
        raise UserError(
            f"{path} has {width}x{height} pixels, more than data.max_pixels={max_pixels}: scale it down, "
            f"and its partner if it has one, or set data.max_pixels={width * height} if there is memory for it"
        )
    if lossless and (codec := _lossy_codec(path, image)):
        raise UserError(
            f"{path} is compressed by {codec}, which need not keep the exact values of a mask: export the "
            "masks anew from their origin as PNG; to convert this file does not bring them back"
        )
    frames = getattr(image, "n_frames", 1)
    # A camera's MPO file is a JPEG whose further frames are previews.
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{path} holds {frames} frames, one is expected: save the right one as PNG")


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn whatever Pillow and the system raise into a sentence."""
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{path} is not an image of a kind that is read ({', '.join(_FORMATS)}): remove it or save it as PNG"
        ) from None
    except MemoryError:
        raise UserError(f"{path} does not fit into the memory: scale it down, and its partner if it has one") from None
    except Exception as error:  # Pillow's plug-ins raise errors of many types on damaged files
        if isinstance(error, OSError) and error.strerror:  # from the system, not from Pillow
            raise UserError(f"{path} cannot be read ({error.strerror}): mend or remove it") from None
        raise UserError(f"{path} is damaged ({error}): copy it again from its origin") from None


def _open(path: Path) -> Image.Image:
    """Read the header of an image; Pillow's own limit on its size is a global, where ours is an option."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_available_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _verify(path: Path) -> None:
    """Compare the checksums of a PNG file: Pillow decodes one with flipped bits into another picture."""
    with _open(path) as image:
        image.verify()


def _bmp_depth(path: Path) -> int:
    """Bits per pixel by the header of a BMP file."""
    with path.open("rb") as file:
        file.seek(28)
        return int.from_bytes(file.read(2), "little")


@cache
def _available_formats() -> tuple[str, ...]:
    """The formats that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _lossy_codec(path: Path, image: Image.Image) -> str | None:
    """The codec of an opened file if it may have changed values; its name and suffix do not count."""
    if image.format == "TIFF":
        codec = str(image.info.get("compression", "raw"))
        return None if codec in _LOSSLESS_TIFF else f"{codec.removeprefix('tiff_').upper()} inside a TIFF file"
    if image.format == "WEBP":
        return None if _is_lossless_webp(path) else "lossy WebP"
    return None if image.format in _LOSSLESS else image.format


def _is_lossless_webp(path: Path) -> bool:
    """Whether the picture of a WebP file is its lossless chunk; other chunks may come before."""
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            if header[:4] in (b"VP8L", b"VP8 "):
                return header[:4] == b"VP8L"
            length = int.from_bytes(header[4:], "little")
            file.seek(length + length % 2, 1)
    return False


def require_opaque(path: Path, image: Image.Image) -> None:
    """Refuse transparency: what is shown under it is not defined by the file."""
    if image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
        raise UserError(f"{path} has transparent pixels: flatten it onto its background and save without alpha")


def _too_deep(path: Path, values: str) -> str:
    """The refusal of values beyond 8 bits: which range holds the picture is not recorded in the file."""
    return f"{path} has {values}, 8-bit images are expected: scale its values to 0-255 and save an 8-bit PNG"
