"""DICOM files, by pydicom: a picture, or the frames of a volume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from tta_bench.data.decoders.base import (
    Decoder,
    Stack,
    library,
    real_numbers,
    register_decoder,
    require_small,
    sentences,
    whole_numbers,
)
from tta_bench.errors import UserError


@register_decoder("dicom")
class DicomDecoder(Decoder):
    """Values after the modality's table or slope, in Hounsfield units for instance; the window is the file's first."""

    extra = "medical"

    @classmethod
    def suffixes(cls) -> frozenset[str]:
        """See :class:`Decoder`."""
        return frozenset((".dcm", ".dicom", ".ima"))

    def shape(self, path: Path, axis: int) -> tuple[int | None, int, int]:
        """See :class:`Decoder`."""
        header = _dataset(path, pixels=False)
        frames = _frames(header)
        return (frames if frames > 1 else None, int(header.Rows), int(header.Columns))

    def read(self, path: Path, axis: int, max_pixels: int) -> Stack:
        """See :class:`Decoder`; frames are slices in their order, whatever the axis."""
        dataset = _dataset(path, pixels=True)
        with sentences(path):
            frames, colours = _frames(dataset), int(dataset.get("SamplesPerPixel", 1))
            require_small(path, (frames, int(dataset.Rows), int(dataset.Columns)), max_pixels)
            values = _pixels(path, dataset)
            values = values if frames > 1 else values[None]
            spacing = _spacing(dataset)
            if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
                from pydicom.pixels import apply_color_lut

                values, colours = apply_color_lut(values, dataset), 3
            if colours == 3:
                return Stack(real_numbers(path, values), spacing)
            from pydicom.pixels import apply_modality_lut

            inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
            return Stack(real_numbers(path, apply_modality_lut(values, dataset)), spacing, _window(dataset), inverted)

    def mask(self, path: Path, axis: int, max_pixels: int, grey: bool = False) -> np.ndarray:
        """See :class:`Decoder`; a mask that counts from white is refused, and so are codecs that may change values."""
        stack = self.read(path, axis, max_pixels)
        codec = _dataset(path, pixels=False).file_meta.TransferSyntaxUID
        if codec.is_compressed and "Lossless" not in codec.keyword:
            raise UserError(
                f"{path} is compressed by {codec.name}, which need not keep the exact values of a mask: export the "
                "masks anew from their origin, uncompressed; to convert this file does not bring them back"
            )
        if stack.inverted:
            raise UserError(f"{path} counts its shades from white (MONOCHROME1): save the mask as a PNG or NIfTI file")
        return whole_numbers(path, stack.values)

    def place(self, path: Path) -> float:
        """Along the normal of the slice, in millimetres; else the number of the instance; head first."""
        header = _dataset(path, pixels=False)
        position, directions = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
        if position is None or directions is None:
            return float(header.get("InstanceNumber") or 0)
        normal = np.cross(np.array(directions[:3], float), np.array(directions[3:], float))
        return -float(normal @ np.array(position, float))


def _dataset(path: Path, pixels: bool) -> Any:
    pydicom = library(path, "pydicom", "medical")
    with sentences(path):
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
        if "Rows" not in dataset or "Columns" not in dataset:
            raise UserError(
                f"{path} is a DICOM file without an image ({dataset.get('Modality', 'no modality')}): remove it"
            )
        return dataset


def _frames(dataset: Any) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _pixels(path: Path, dataset: Any) -> np.ndarray:
    """The stored values; colours in red, green and blue."""
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(dataset)
    except (RuntimeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(":")
        codec = dataset.file_meta.TransferSyntaxUID
        if packages := _missing(codec):
            reason, remedy = codec.name, f"pip install {' '.join(packages)}, or save it uncompressed"
        elif codec.is_compressed and not isinstance(error, NotImplementedError):  # all that could decode it has failed
            remedy = "copy it again from its origin"
        else:
            remedy = "save it uncompressed"
        raise UserError(f"{path}: its pixels cannot be decompressed ({reason}): {remedy}") from None


def _missing(codec: Any) -> list[str]:
    """The packages of pylibjpeg that decode a compression and are not installed."""
    from pydicom.pixels import get_decoder

    try:
        lines = get_decoder(codec).missing_dependencies
    except NotImplementedError:  # nothing decodes it
        return []
    of_pylibjpeg = " ".join(line for line in lines if line.startswith("pylibjpeg "))
    return sorted(set(re.findall(r"(pylibjpeg(?:-\w+)?)>=", of_pylibjpeg)))


def _window(dataset: Any) -> tuple[float, float] | None:
    """The first window of the file, as the values that are shown black and white."""
    centre, width = (_first(dataset.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width <= 1:
        return None
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2  # DICOM PS3.3 C.11.2.1.2.1


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__iter__") and not isinstance(value, str) else value)


def _spacing(dataset: Any) -> tuple[float, float, float] | None:
    rows_columns = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    if not rows_columns:
        return None
    between = _first(dataset.get("SpacingBetweenSlices")) or _first(dataset.get("SliceThickness")) or 1.0
    return between, float(rows_columns[0]), float(rows_columns[1])
