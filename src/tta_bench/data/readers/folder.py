"""``data=folder``: a folder of images and one of masks for each domain, for anybody's own images and volumes."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Self

from tta_bench.data.decoders.base import AXIS, decoder_of, file_state, slices_in, stem_of
from tta_bench.data.file_record import FileRecord
from tta_bench.data.files import is_text, listed, printable
from tta_bench.data.hints import Naming, dir_keys, folder_below, mask_keys, namings
from tta_bench.data.mask_sources import AnnotatorMasks, ClassMasks, ColourMask, MaskSource
from tta_bench.data.readers.base import Reader, Record, existing_root, register_reader, require_known
from tta_bench.errors import UserError
from tta_bench.runtime.files import warn_once
from tta_bench.runtime.files_section import FilesConfig
from tta_bench.runtime.names import normal
from tta_bench.schema import DataConfig

log = logging.getLogger(__name__)


@register_reader("folder")
class FolderReader(Reader):
    """``ROOT/DOMAIN/{image,mask}/NAME.*``, paired by the name without its extension, sorted by it.

    A domain without a folder ``mask`` has images alone. Names that differ in their Unicode form alone are equal, and
    stay as the images have them. Hidden files, and those that systems leave, are ignored. A file that holds a volume
    is a case, each slice of which is an image; a folder in ``image`` is a case too, each file of which is a slice, and
    has a folder of its name in ``mask``. ``data.image_dir``, ``data.mask_dir`` and what else
    :class:`~tta_bench.runtime.files_section.FilesConfig` has say otherwise.

    Args:
        root: folder of the domains.
        config: the rest of the section.
    """

    needs = ("root",)
    takes = tuple(FilesConfig.model_fields)

    def __init__(self, root: Path, config: DataConfig) -> None:
        self._root = root
        self._config = config
        self._images, self._masks = config.image_dir or "image", config.mask_dir or "mask"
        self._before, self._behind = config.mask_prefix or "", config.mask_suffix or ""

    @classmethod
    def from_config(cls, config: DataConfig) -> Self:
        """By ``data.root``."""
        return cls(existing_root(config), config)

    def domain_names(self) -> tuple[str, ...]:
        """The sub-folders that have a folder of images, sorted.

        Raises:
            UserError: there is none, the root cannot be listed, or a name is not UTF-8.
        """
        folders = [path for path in listed(self._root) if self._is_domain(path)]
        if faults := _name_faults(folders):
            raise UserError(faults)
        names = tuple(path.name for path in folders)
        if not names:
            if (near := self._root_nearby()) is not None:
                raise UserError(f"data.root={self._root} holds no domain, and {near} does: set data.root={near}")
            other = "" if self._config.image_dir else ", or name the folders with data.image_dir and data.mask_dir"
            if keys := dir_keys(self._root):
                raise UserError(f"data.root={self._root} holds no DOMAIN/{self._images}, but folders that fit {keys}")
            raise UserError(
                f"data.root={self._root} holds no domain: put images into DOMAIN/{self._images}/NAME.* below it and "
                f"their masks into DOMAIN/{self._masks}/NAME.*{other}"
            )
        return names

    def records(self, domain: str) -> Sequence[Record]:
        """The pairs of one domain, sorted by name; the slices of a case in their order.

        Raises:
            UserError: no such domain, no image in it, or every file that has no unique partner.
        """
        require_known(domain, self.domain_names(), f"data.root={self._root}")
        folder = self._root / domain
        images, faults = _by_name(folder / self._images)
        if self._images == self._masks:
            images = {key: image for key, image in images.items() if not self._is_mask(stem_of(image))}
        if not images:
            faults.append(f"{folder / self._images} holds no image: fill it or leave domain '{domain}' out")
        places = {part: folder / self._masks / part for part in self._folders()}
        labelled = any(map(os.path.lexists, places.values())) if places else os.path.lexists(folder / self._masks)
        cases = {key: path for key, path in images.items() if os.path.isdir(path)}
        records: list[FileRecord] = []
        used: set[Path] = set()
        for key in sorted(images, key=lambda key: stem_of(images[key])):
            try:
                if key in cases:
                    records += self._slices(cases[key], folder / self._masks, labelled, used)
                else:
                    records += self._of_file(images[key], folder / self._masks, labelled, used)
            except UserError as error:
                faults += error.faults
        if labelled:
            faults += self._unused(folder, used)
        keys = self._mask_keys(folder, images) if labelled else ""
        if faults:
            hint = f"domain '{domain}': masks are not called as the keys say, those that are there fit {keys}"
            raise UserError([*([hint] if keys else []), *sorted(faults)])
        if keys:  # of a class alone, which may be nowhere
            warn_once(log, f"domain '{domain}': masks of some classes are in no image, and files there fit {keys}")
        return records

    def mask_hint(self, domain: str) -> str:
        """By the names of the files in the domain's folders."""
        folder = self._root / domain
        return self._mask_keys(folder, _by_name(folder / self._images)[0])

    def _mask_keys(self, folder: Path, images: Collection[str]) -> str:
        """The keys with which more masks would be found, by names of images as :func:`_by_name` has them."""
        config, masks = self._config, self._masks
        key = "class_masks" if config.class_masks else "annotators" if config.annotators else ""
        parts = config.class_masks or {name: name for name in config.annotators or ("",)}
        wanted = {
            name: Naming(f"{masks}/{part[:-1]}", self._before, self._behind)
            if part.endswith("/")
            else Naming(masks, self._before, f"{self._behind}{part}")
            for name, part in parts.items()
        }
        return mask_keys(wanted, namings(folder, images, self._images), key, list(config.classes))

    def _is_domain(self, folder: Path) -> bool:
        return os.path.isdir(folder / self._images)

    def _root_nearby(self) -> Path | None:
        """The folder that holds domains, where ``data.root`` is one of them, or lies in one or above it."""
        root = Path(os.path.abspath(self._root))
        for domain in (root, root.parent):
            if self._is_domain(domain):
                return domain.parent if self._root.is_absolute() else Path(os.path.relpath(domain.parent))
        return folder_below(self._root, lambda path: any(map(self._is_domain, _below(path))))

    def _folders(self) -> list[str]:
        """The folders below that of the masks in which parts of masks lie."""
        parts = [*(self._config.class_masks or {}).values(), *(self._config.annotators or ())]
        return [part for part in parts if part.endswith("/")]

    def _names(self, stem: str) -> list[str]:
        """What the masks of an image are called without their ending, relative to the folder of masks."""
        name = f"{self._before}{stem}{self._behind}"
        parts = [*(self._config.class_masks or {}).values(), *(self._config.annotators or ())]
        return [f"{part}{name}" if part.endswith("/") else f"{name}{part}" for part in parts] or [name]

    def _is_mask(self, stem: str) -> bool:
        """Whether a file of a folder that images and masks share is a mask, by its name."""
        marks = [*(self._config.class_masks or {}).values(), *(self._config.annotators or ())]
        behind = [self._behind + mark for mark in marks if not mark.endswith("/")] or [self._behind]
        return any(stem.startswith(self._before) and stem.endswith(end) for end in behind if self._before or end)

    def _slices(self, case: Path, masks: Path, labelled: bool, used: set[Path]) -> list[FileRecord]:
        """The files of a folder as the slices of a case."""
        files, faults = _by_name(case)
        faults += [
            f"{path} is a folder in that of a case: put its files into it" for path in files.values() if path.is_dir()
        ]
        if not files:
            faults.append(f"{case} holds no image: fill it or remove it")
        if faults:
            raise UserError(faults)
        ordered = sorted(files.values(), key=lambda path: (decoder_of(path).place(path), path.name))
        records = []
        for number, path in enumerate(ordered):
            (record,) = self._of_file(path, masks / case.name, labelled, used)
            name = f"{case.name}/{stem_of(path)}"
            records.append(replace(record, name=name, case=case.name, slice=number))
        return records

    def _of_file(self, image: Path, masks: Path, labelled: bool, used: set[Path]) -> list[FileRecord]:
        """The image of a file, or the slices of the volume that it holds.

        Args:
            image: the file.
            masks: folder of the masks.
            labelled: whether the domain has masks.
            used: masks that belong to an image, to be added to.

        Raises:
            UserError: the mask is not there, or a volume cannot be opened.
        """
        stem, config = stem_of(image), self._config
        expected = [masks / f"{name}.*" for name in self._names(stem)]
        found = [_file_called(each) for each in expected] if labelled else []
        used.update(path for path in found if path is not None)
        lacking = [path for path, mask in zip(expected, found, strict=False) if mask is None]
        if labelled and lacking and (not config.class_masks or len(lacking) == len(expected)):
            raise UserError([f"{image} has no mask: add {path} or remove the image" for path in lacking])
        paths = [mask or path for mask, path in zip(found, expected, strict=True)] if labelled else expected
        record = FileRecord(
            stem,
            image,
            next((mask for mask in found if mask is not None), paths[0]),
            labelled,
            max_pixels=config.max_pixels,
            source=self._source(paths) if labelled else None,
            intensity=config.intensity,
            axis=AXIS if config.axis is None else config.axis,
        )
        slices = slices_in(image, record.axis)
        if slices is None:
            return [record]
        return [
            replace(record, name=f"{stem}/{number:04d}", case=stem, slice=number, in_file=True)
            for number in range(slices)
        ]

    def _source(self, paths: Sequence[Path]) -> MaskSource | None:
        """What the mask of an image is made of."""
        config = self._config
        if config.colours:
            return ColourMask(paths[0], config.colours, config.classes)
        if config.class_masks:
            return ClassMasks(dict(zip(config.class_masks, paths, strict=True)), config.classes)
        if config.annotators:
            return AnnotatorMasks(tuple(paths), config.fusion or "majority", config.classes)
        return None

    def _unused(self, folder: Path, used: set[Path]) -> list[str]:
        """A sentence for every mask that has no image, and for every fault of the listing of masks."""
        faults: list[str] = []
        places = [folder / self._masks / part for part in self._folders()] or [folder / self._masks]
        for place in places if self._images != self._masks else ():
            masks, more = _by_name(place) if os.path.isdir(place) else ({}, [])
            faults += more
            kept = {path.parent if path.parent != place else path for path in used}
            for path in masks.values():
                if path not in kept and not (path.is_dir() and f"{path.name}/" in self._folders()):
                    image = stem_of(path).removeprefix(self._before).removesuffix(self._behind)
                    faults.append(f"{path} has no image: add {folder / self._images / image}.* or remove the mask")
        return faults


@lru_cache(maxsize=64)
def _listing(folder: Path, state: tuple[int, int]) -> dict[str, Path]:
    return _by_name(folder)[0]


def _file_called(pattern: Path) -> Path | None:
    """The file of a name with any ending, ``FOLDER/NAME.*``."""
    if not os.path.isdir(pattern.parent):
        return None
    found = _listing(pattern.parent, file_state(pattern.parent)).get(normal(pattern.name.removesuffix(".*")))
    return None if found is None or found.is_dir() else found


def _below(folder: Path) -> list[Path]:
    """The entries of a folder; none of one that cannot be listed."""
    with suppress(UserError):
        return listed(folder)
    return []


def _name_faults(paths: Sequence[Path]) -> list[str]:
    """A sentence for every name that cannot be written into results."""
    return [f"the name of {printable(path)} is not UTF-8: rename it" for path in paths if not is_text(path.name)]


def _by_name(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files and folders of a folder by their name without extension, and what is wrong with the listing."""
    files: dict[str, Path] = {}
    paths = listed(folder)
    faults = _name_faults(paths)
    for path in filter(lambda path: is_text(path.name), paths):
        # macOS decomposes what other systems keep composed.
        key = normal(path.name if os.path.isdir(path) else stem_of(path))
        if key in files:
            faults.append(f"{files[key]} and {path.name} share one name: keep one of them")
        else:
            files[key] = path
    return files, faults
