"""A reader: arrays of an image and its mask, ``ROOT/SITE/NAME.npz``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np

from tta_bench import register_reader
from tta_bench.data.files import listed
from tta_bench.data.readers.base import Reader, Sample, existing_root, require_known
from tta_bench.errors import UserError
from tta_bench.schema import DataConfig


@dataclass(frozen=True)
class ArrayRecord:
    """A file with the arrays ``image`` uint8 ``[H, W, 3]`` and ``mask`` uint8 ``[H, W]``."""

    path: Path
    labelled: bool = True

    @property
    def name(self) -> str:
        """The file's, without its suffix."""
        return self.path.stem

    @property
    def origin(self) -> str:
        """The file."""
        return str(self.path)

    def stamp(self) -> Sequence[str | int]:
        """Path, size and modification time."""
        status = self.path.stat()
        return [str(self.path.absolute()), status.st_size, status.st_mtime_ns]

    def memory(self, size: int) -> int:
        """The arrays are stored as they are."""
        return self.path.stat().st_size

    def read(self, size: int) -> Sample:
        """Decode and check."""
        try:
            with np.load(self.path) as arrays:
                image, mask = arrays["image"], arrays["mask"]
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise UserError(f"{self.path} has no image and mask ({error}): write both with numpy.savez") from None
        if image.shape != (*mask.shape, 3) or (image.dtype, mask.dtype) != (np.uint8, np.uint8):
            raise UserError(f"{self.path}: give an image uint8 [H, W, 3] and a mask uint8 [H, W]")
        return Sample(image, mask)


def arrays_in(folder: Path) -> list[Path]:
    """The files of a site, by name; what systems leave in folders is left out."""
    return [path for path in listed(folder) if path.suffix == ".npz"]


@register_reader("my_reader")
class MyReader(Reader):
    """Arrays of an image and its mask in one file each, a folder for each site."""

    needs = ("root",)

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def from_config(cls, config: DataConfig) -> Self:
        """By ``data.root``."""
        return cls(existing_root(config))

    def domain_names(self) -> tuple[str, ...]:
        """The folders that hold such files."""
        names = tuple(folder.name for folder in listed(self.root) if folder.is_dir() and arrays_in(folder))
        if not names:
            raise UserError(f"data.root={self.root} holds no site: put arrays into SITE/NAME.npz below it")
        return names

    def records(self, domain: str) -> Sequence[ArrayRecord]:
        """The files of a site, by name."""
        require_known(domain, self.domain_names(), f"data.root={self.root}")
        return [ArrayRecord(path) for path in arrays_in(self.root / domain)]
