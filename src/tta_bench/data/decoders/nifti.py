"""NIfTI volumes, ``.nii`` and ``.nii.gz``, by nibabel."""

from __future__ import annotations

import gzip
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
from tta_bench.errors import UserError
from tta_bench.runtime.files import write_atomically

ORIENTATION = ("L", "P", "I")
"""Where x, y and z lead: a slice is seen as radiologists see it, whatever the order of the axes in the file."""


@register_decoder("nifti")
class NiftiDecoder(Decoder):
    """A volume of three axes, in :data:`ORIENTATION`."""

    extra = "medical"

    @classmethod
    def suffixes(cls) -> frozenset[str]:
        """See :class:`Decoder`."""
        return frozenset((".nii", ".nii.gz"))

    def shape(self, path: Path, axis: int) -> tuple[int | None, int, int]:
        """See :class:`Decoder`."""
        nibabel = library(path, "nibabel", "medical")
        with sentences(path):
            file = nibabel.load(path)
            sizes = _three(path, file.shape)
            turned = _orientation(file.affine)
            x, y, z = (sizes[list(turned[:, 0]).index(each)] for each in range(3))
            slices = (x, y, z)[axis]
            columns, rows = (size for each, size in enumerate((x, y, z)) if each != axis)
            return slices, rows, columns

    def read(self, path: Path, axis: int, max_pixels: int) -> Stack:
        """See :class:`Decoder`."""
        nibabel = library(path, "nibabel", "medical")
        with sentences(path):
            file = nibabel.load(path)
            sizes = _three(path, file.shape)
            require_small(path, sizes, max_pixels)
            if file.get_data_dtype().kind not in "buif":
                raise UserError(
                    f"{path} holds values of type {file.get_data_dtype()}: save one real number per pixel, the "
                    "magnitude for instance"
                )
            turned = nibabel.Nifti1Image(np.asanyarray(file.dataobj).reshape(sizes), file.affine).as_reoriented(
                _orientation(file.affine)
            )
            values = real_numbers(path, np.asanyarray(turned.dataobj))
            spacing = sliced_spacing(turned.header.get_zooms()[:3], axis)
            return Stack(slices_of(values, axis), spacing)

    def affine(self, path: Path) -> np.ndarray | None:
        """See :class:`Decoder`."""
        nibabel = library(path, "nibabel", "medical")
        with sentences(path):
            file = nibabel.load(path)
            return turned_affine(file.affine, _three(path, file.shape))

    def write_mask(self, path: Path, image: Path, mask: np.ndarray, axis: int) -> None:
        """See :class:`Decoder`; with the affine of the volume."""
        nibabel = library(image, "nibabel", "medical")
        from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

        file = nibabel.load(image)
        back = ornt_transform(_axes(), io_orientation(file.affine))
        volume = apply_orientation(volume_of(mask, axis), back).astype(np.uint8)
        header = file.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        content = type(file)(volume, file.affine, header).to_bytes()
        write_atomically(path, gzip.compress(content, 6, mtime=0) if path.suffix.lower() == ".gz" else content)


def turned_affine(affine: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """That of the same volume, its axes turned into :data:`ORIENTATION`; right, anterior and superior count up."""
    from nibabel.orientations import inv_ornt_aff

    turned: np.ndarray = affine @ inv_ornt_aff(_orientation(affine), sizes)
    return turned


def _axes() -> Any:
    from nibabel.orientations import axcodes2ornt

    return axcodes2ornt(ORIENTATION)


def _orientation(affine: np.ndarray) -> Any:
    """What turns the axes of a file into :data:`ORIENTATION`."""
    from nibabel.orientations import io_orientation, ornt_transform

    return ornt_transform(io_orientation(affine), _axes())


def _three(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The sizes along three axes; further ones of one element are none."""
    sizes = [*shape, *[1] * (3 - len(shape))]
    if any(size != 1 for size in sizes[3:]):
        raise UserError(
            f"{path} has {len(sizes)} axes ({'x'.join(map(str, shape))}): save each of its {sizes[3]} volumes as a "
            "file of three axes"
        )
    return sizes[0], sizes[1], sizes[2]
