"""``data=folder``: a folder of images and one of masks for each domain, for anybody's own images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tta_bench.data.file_record import FileRecord
from tta_bench.data.files import is_text, printable
from tta_bench.data.readers.base import Reader, Record, existing_root, register_reader, require_known
from tta_bench.errors import UserError
from tta_bench.runtime.names import normal
from tta_bench.schema import DataConfig


@register_reader("folder")
class FolderReader(Reader):
    """``ROOT/DOMAIN/{image,mask}/NAME.*``, paired by the name without its extension, sorted by it.

    A domain without a folder ``mask`` has images alone. Names that differ in their Unicode form alone are equal, and
    stay as the images have them. Hidden files are ignored.

    Args:
        root: folder of the domains.
        max_pixels: refuse larger files.
    """

    needs = ("root",)

    def __init__(self, root: Path, max_pixels: int) -> None:
        self._root = root
        self._max_pixels = max_pixels

    @classmethod
    def from_config(cls, config: DataConfig) -> Self:
        """By ``data.root``."""
        return cls(existing_root(config), config.max_pixels)

    def domain_names(self) -> tuple[str, ...]:
        """The sub-folders that have an ``image`` folder, sorted.

        Raises:
            UserError: there is none, the root cannot be listed, or a name is not UTF-8.
        """
        folders = [path for path in _visible(self._root) if os.path.isdir(path / "image")]
        if faults := _name_faults(folders):
            raise UserError(faults)
        names = tuple(path.name for path in folders)
        if not names:
            raise UserError(
                f"data.root={self._root} holds no domain: put images into DOMAIN/image/NAME.* below it and their "
                "masks into DOMAIN/mask/NAME.*"
            )
        return names

    def records(self, domain: str) -> Sequence[Record]:
        """The pairs of one domain, sorted by name.

        Raises:
            UserError: no such domain, no image in it, or every file that has no unique partner.
        """
        require_known(domain, self.domain_names(), f"data.root={self._root}")
        folder = self._root / domain
        images, faults = _by_name(folder / "image")
        labelled = os.path.lexists(folder / "mask")
        # Without masks, where they would have to be.
        expected = {key: folder / "mask" / f"{image.stem}.*" for key, image in images.items()}
        masks, mask_faults = _by_name(folder / "mask") if labelled else (expected, [])
        faults += mask_faults
        faults += [
            f"{images[key]} has no mask: add {folder / 'mask' / images[key].stem}.* or remove the image"
            for key in images.keys() - masks.keys()
        ]
        faults += [
            f"{masks[key]} has no image: add {folder / 'image' / masks[key].stem}.* or remove the mask"
            for key in masks.keys() - images.keys()
        ]
        if not images and not masks:
            faults.append(f"{folder / 'image'} holds no image: fill it or leave domain '{domain}' out")
        if faults:
            raise UserError(sorted(faults))
        pairs = sorted((image.stem, image, masks[key]) for key, image in images.items())
        return [FileRecord(*pair, labelled, max_pixels=self._max_pixels) for pair in pairs]


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden, sorted by name."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): mend its permissions") from None


def _name_faults(paths: Sequence[Path]) -> list[str]:
    """A sentence for every name that cannot be written into results."""
    return [f"the name of {printable(path)} is not UTF-8: rename it" for path in paths if not is_text(path.name)]


def _by_name(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files of a folder by their name without extension, and what is wrong with the listing."""
    files: dict[str, Path] = {}
    paths = _visible(folder)
    faults = _name_faults(paths)
    for path in filter(lambda path: is_text(path.name), paths):
        key = normal(path.stem)  # macOS decomposes what other systems keep composed
        if os.path.isdir(path):
            faults.append(f"{path} is a folder: put the files directly into {folder}")
        elif key in files:
            faults.append(f"{files[key]} and {path.name} share one name: keep one of them")
        else:
            files[key] = path
    return files, faults
