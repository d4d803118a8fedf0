"""NRRD and MetaImage volumes, by SimpleITK."""

from __future__ import annotations

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
    sliced_spacing,
    slices_of,
    volume_of,
)
from tta_bench.data.decoders.nifti import turned_affine
from tta_bench.errors import UserError
from tta_bench.runtime.files import replacing

_ORIENTATION = "LPI"  # as that of NIfTI files


@register_decoder("itk")
class ItkDecoder(Decoder):
    """A picture of two axes, or a volume of three, in the orientation of NIfTI volumes."""

    extra = "medical"

    @classmethod
    def suffixes(cls) -> frozenset[str]:
        """See :class:`Decoder`."""
        return frozenset((".nrrd", ".nhdr", ".mha", ".mhd"))

    def shape(self, path: Path, axis: int) -> tuple[int | None, int, int]:
        """See :class:`Decoder`; the header of a volume does not tell which axis becomes which."""
        stack_shape = self._open(path, axis, None)[0].shape
        return (stack_shape[0] if self._dimension(path) == 3 else None, stack_shape[1], stack_shape[2])

    def read(self, path: Path, axis: int, max_pixels: int) -> Stack:
        """See :class:`Decoder`."""
        values, spacing = self._open(path, axis, max_pixels)
        return Stack(real_numbers(path, values), spacing)

    def affine(self, path: Path) -> np.ndarray | None:
        """See :class:`Decoder`; None of a picture."""
        header = _header(path)
        if header.GetDimension() != 3:
            return None
        library(path, "nibabel", "medical")
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(header.GetDirection(), (3, 3)) * header.GetSpacing()
        affine[:3, 3] = header.GetOrigin()
        # These files count left and posterior up.
        return turned_affine(np.diag([-1, -1, 1, 1]) @ affine, header.GetSize())

    def write_mask(self, path: Path, image: Path, mask: np.ndarray, axis: int) -> None:
        """See :class:`Decoder`."""
        sitk = library(image, "SimpleITK", "medical")
        volume = sitk.ReadImage(str(image))
        turned = sitk.GetImageFromArray(np.ascontiguousarray(volume_of(mask, axis).transpose(2, 1, 0)))
        turned.CopyInformation(sitk.DICOMOrient(volume, _ORIENTATION))
        orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(volume.GetDirection())
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            named = temporary.with_name(f"{temporary.name}{path.suffix}")  # which tells the library the format
            sitk.WriteImage(sitk.DICOMOrient(turned, orientation), str(named), useCompression=True)
            named.replace(temporary)

    def _dimension(self, path: Path) -> int:
        return int(_header(path).GetDimension())

    def _open(
        self, path: Path, axis: int, max_pixels: int | None
    ) -> tuple[np.ndarray, tuple[float, float, float] | None]:
        sitk = library(path, "SimpleITK", "medical")
        with sentences(path):
            header = _header(path)
            shape = header.GetSize()
            if header.GetDimension() not in (2, 3):
                raise UserError(
                    f"{path} has {header.GetDimension()} axes ({'x'.join(map(str, shape))}): save each of its volumes "
                    "as a file of three axes"
                )
            if max_pixels is not None:
                require_small(path, shape, max_pixels)
            image = sitk.ReadImage(str(path))
            if header.GetDimension() == 3 and image.GetNumberOfComponentsPerPixel() == 1:
                image = sitk.DICOMOrient(image, _ORIENTATION)
                volume = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
                return slices_of(volume, axis), sliced_spacing(image.GetSpacing(), axis)
            values = sitk.GetArrayFromImage(image)[None]
            if image.GetNumberOfComponentsPerPixel() not in (1, 3) or values.ndim > 4:
                raise UserError(
                    f"{path} has {image.GetNumberOfComponentsPerPixel()} numbers per pixel: save one, or a picture of "
                    "red, green and blue"
                )
            columns, rows = image.GetSpacing()
            return values, (1.0, rows, columns)


def _header(path: Path) -> Any:
    sitk = library(path, "SimpleITK", "medical")
    with sentences(path):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return reader
