"""Decode one picture with Pillow into a plain array of its values, or refuse it."""

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
_DEEP = "tta_bench: 16 bits per channel"
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0

MAX_PIXELS = 178_956_970
"""Pillow's own limit against bombs, for whoever reads a file without a configuration and its ``data.max_pixels``."""

_opening = threading.Lock()


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image: of 8 bits as RGB, of more as its own values.

    Grey, palette, CMYK and YCbCr images of 8 bits are converted as by ``PIL.Image.convert("RGB")``; an alpha channel
    that is opaque everywhere is dropped.

    Returns:
        uint8 ``[height, width, 3]``, 0-255; of deeper files uint16, int32 or floating point, ``[height, width]`` or
        ``[height, width, 3]``.

    Raises:
        UserError: missing, no regular file, empty, truncated or not an image; more than ``max_pixels``; several
            frames; an EXIF orientation; real transparency.
    """
    if (values := _tiff_beyond_pillow(path, max_pixels)) is not None:
        return values
    image = decode(path, max_pixels, deep=True)
    if image.mode in INTEGER_MODES or image.mode == "F":
        return _deep_grey(path, image)
    if image.info.get(_DEEP):
        return _deep_colours(path, image)
    if image.mode not in _COLOUR_MODES:
        raise UserError(f"{path}: colour mode {image.mode} is not read: save it as an RGB PNG")
    require_opaque(path, image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _deep_grey(path: Path, image: Image.Image) -> np.ndarray:
    """The values of a file of one channel of more than 8 bits."""
    values = np.asarray(image)
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        values = values.astype(np.uint16)  # which Pillow widens
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        if values.dtype.kind != "u":
            raise UserError(f"{path} counts its shades from white (TIFF WhiteIsZero): save it anew, black as 0")
        return np.iinfo(values.dtype).max - values
    return values


def _deep_colours(path: Path, image: Image.Image) -> np.ndarray:
    """Red, green and blue of 16 bits, of which Pillow keeps the upper 8.

    Raises:
        UserError: transparency, or values of which the upper bits are not those that Pillow reads.
    """
    import cv2

    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    shown = np.asarray(image.convert("RGB"))
    if values is None or values.dtype != np.uint16 or values.shape[:2] != shown.shape[:2]:
        raise UserError(f"{path} has 16 bits per channel in a form that is not read: save it as PNG or TIFF")
    values = values[..., None].repeat(3, axis=2) if values.ndim == 2 else values
    if values.shape[2] == 4 and values[..., 3].min() < 65535:
        raise UserError(_transparent(path))
    colours = np.ascontiguousarray(values[..., 2::-1], np.uint16)
    if (np.abs((colours // 256).astype(np.int16) - shown) > 1).any():
        raise UserError(f"{path} has 16 bits per channel in a form that is not read: save it as PNG or TIFF")
    return colours


def _tiff_beyond_pillow(path: Path, max_pixels: int) -> np.ndarray | None:
    """Red, green and blue of a TIFF file in floating point, which Pillow does not know; None for any other file."""
    if path.suffix.lower() not in (".tif", ".tiff") or stored_size(path) != (0, 0):
        return None
    import cv2

    with _sentences(path):
        content = np.fromfile(path, np.uint8) if require_file(path) else np.zeros(0, np.uint8)
        if not content.size or (values := cv2.imdecode(content, cv2.IMREAD_UNCHANGED)) is None:
            return None
    if values.dtype.kind != "f" or values.ndim != 3 or values.shape[2] != 3:
        return None
    if (pages := cv2.imcount(str(path))) > 1:
        raise UserError(_several(path, pages))
    if values.shape[0] * values.shape[1] > max_pixels:
        raise UserError(f"{path} has more pixels than data.max_pixels={max_pixels}: scale it down, or set it higher")
    return np.ascontiguousarray(values[..., ::-1])


def stored_size(path: Path) -> tuple[int, int]:
    """Height and width by the header of an image file; 0 if they cannot be told, which decoding will explain."""
    try:
        require_file(path)
        with _open(path) as image:
            return image.height, image.width
    except Exception:  # Pillow's plug-ins raise errors of many types on damaged files
        return 0, 0


@cache
def image_suffixes() -> frozenset[str]:
    """Endings of file names of the formats that are read, in lower case with their dot."""
    formats = _available_formats()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats)


def value_counts(mask: np.ndarray) -> dict[int, int]:
    """How many pixels of a uint8 mask have each value that occurs, ascending by value."""
    counts = Image.fromarray(mask).histogram()
    return {value: count for value, count in enumerate(counts) if count}


def decode(path: Path, max_pixels: int, *, lossless: bool = False, deep: bool = False) -> Image.Image:
    """Open and decode a file completely, so that a truncated one is found here and not during a run.

    Args:
        path: the file.
        max_pixels: refuse larger ones.
        lossless: refuse codecs that may have changed values.
        deep: do not refuse colours of 16 bits, of which this is the upper half; the image says so then.

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
        if not deep:
            raise UserError(f"{path} has 16 bits per channel: save class numbers as a one-channel 8-bit PNG")
        image.info[_DEEP] = True
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
        raise UserError(_several(path, frames))


def _several(path: Path, pages: int) -> str:
    return (
        f"{path} holds {pages} frames, one is expected: save the right one as PNG; or, if they are the slices of a "
        f"volume, each as a file in a folder {path.stem}, which is a case then"
    )


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
        raise UserError(_transparent(path))


def _transparent(path: Path) -> str:
    return f"{path} has transparent pixels: flatten it onto its background and save without alpha"
