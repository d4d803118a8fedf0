"""Readers: where the images of a data set lie and how its masks are coded, behind one small interface."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tta_bench.data import synthetic
from tta_bench.data.files import is_text, name_key, on_disk, printable
from tta_bench.data.images import read_image, read_mask, resize, stored_pixels, value_counts
from tta_bench.data.lists import ListedPair, read_list
from tta_bench.data.shades import class_numbers
from tta_bench.errors import UserError, nearest
from tta_bench.schema import MAX_PIXELS, SHADES, DataConfig

log = logging.getLogger(__name__)

_BYTES_PER_STORED_PIXEL = 16  # Pillow's image, its array and what a conversion adds
_BYTES_PER_RENDERED_PIXEL = 400  # the layers of a generated eye, in double precision


@dataclass(frozen=True)
class Sample:
    """One decoded pair.

    Attributes:
        image: uint8 ``[size, size, 3]``, RGB.
        mask: uint8 ``[size, size]``, mask values.
        height: of the image as stored, pixels.
        width: of the image as stored, pixels.
        counts: pixels of each mask value that occurs before resizing, ascending by value.
    """

    image: np.ndarray
    mask: np.ndarray
    height: int
    width: int
    counts: Mapping[int, int]


class Record(Protocol):
    """One image with its mask, not yet decoded."""

    @property
    def name(self) -> str:
        """Identifier of the image within its domain."""

    @property
    def origin(self) -> str:
        """Where the mask comes from, as messages call it."""

    def stamp(self) -> Sequence[str | int]:
        """A cheap summary that changes when the content does."""

    def memory(self, size: int) -> int:
        """About how many bytes :meth:`read` takes."""

    def read(self, size: int) -> Sample:
        """Decode, check and resize the pair.

        Raises:
            UserError: with every fault of the pair.
        """


class Reader(Protocol):
    """A data set: domains and their records."""

    def domain_names(self) -> tuple[str, ...]:
        """The domains that can be read, in a fixed order."""

    def records(self, domain: str) -> Sequence[Record]:
        """The images of one domain in stream order; decodes nothing.

        Raises:
            UserError: with every fault of the domain's listing.
        """


def open_reader(config: DataConfig) -> Reader:
    """The reader that ``data.name`` asks for.

    Raises:
        UserError: ``data.root`` is not a folder, or ``data.domains`` is missing.
    """
    if config.name == "synthetic":
        return SyntheticReader(config.seed)
    root = None if config.root is None else config.root.expanduser()
    if root is not None and not is_text(str(root)):
        raise UserError(f"data.root={printable(root)} is not UTF-8: rename that folder")
    # Unlike the methods of Path, os.path reports folders that may not be entered as absent.
    if root is None or not os.path.isdir(root):
        what = "is not a folder" if root is not None and os.path.exists(root) else "does not exist"
        raise UserError(f"data.root={config.root} {what}: give the folder of the images")
    if config.name == "folder":
        return FolderReader(root, config.max_pixels)
    if not config.domains:
        raise UserError("data=fundus needs data.domains: map each domain name to its file prefix, {B: REFUGE}")
    return FundusReader(root, config.domains, config.shades or SHADES, config.max_pixels)


@dataclass(frozen=True)
class FileRecord:
    """A pair of files.

    Attributes:
        name: identifier of the image within its domain.
        image: path of the image.
        mask: path of the mask.
        shades: grey codes of the mask, see :func:`tta_bench.data.shades.class_numbers`; None: class numbers.
        listed: another name under which a list has the mask, for the message if it is not there.
        max_pixels: refuse larger files.
    """

    name: str
    image: Path
    mask: Path
    shades: Mapping[str, Sequence[int]] | None = None
    listed: Path | None = None
    max_pixels: int = MAX_PIXELS

    @property
    def origin(self) -> str:
        """Path of the mask."""
        return str(self.mask)

    def stamp(self) -> Sequence[str | int]:
        """Path, size and modification time (ns) of both files; those of a missing file are left out."""
        stamp: list[str | int] = []
        for path in (self.image, self.mask):
            stamp.append(str(path.absolute()))
            with contextlib.suppress(OSError):  # ``read`` reports it, together with the other faults
                status = path.stat()
                stamp += [status.st_size, status.st_mtime_ns]
        return stamp

    def memory(self, size: int) -> int:
        """By the headers of both files."""
        pixels = max(stored_pixels(self.image), stored_pixels(self.mask))
        return _BYTES_PER_STORED_PIXEL * min(pixels, self.max_pixels)

    def read(self, size: int) -> Sample:
        """Decode, check and resize the pair.

        Raises:
            UserError: with the faults of both files, or the mismatch between them.
        """
        faults: list[str] = []
        try:
            image = read_image(self.image, self.max_pixels)
            if image.min() == image.max():
                faults.append(
                    f"{self.image} is constant (every value is {image.min()}), nothing can be seen in it: "
                    "remove the pair"
                )
        except UserError as error:
            faults += error.faults
        try:
            self._require_listed()
            mask = read_mask(self.mask, grey=self.shades is not None, max_pixels=self.max_pixels)
            if self.shades is not None:
                mask = class_numbers(mask, self.shades, self.mask)
        except UserError as error:
            faults += error.faults
        if faults:
            raise UserError(faults)
        height, width = mask.shape
        if image.shape[:2] != mask.shape:
            raise UserError(
                f"{self.image} has {image.shape[1]}x{image.shape[0]} pixels (width x height) but its mask "
                f"{self.mask} has {width}x{height}: give both the same size"
            )
        return Sample(*resize(image, mask, size), height, width, value_counts(mask))

    def _require_listed(self) -> None:
        """Say under which name a mask is looked for, where that is not the listed one."""
        if self.listed is not None and not os.path.lexists(self.mask):
            there = "exists, but is not used: rename it" if os.path.lexists(self.listed) else "does not exist either"
            raise UserError(
                f"{self.mask} does not exist: a mask that is listed as NAME.tif lies on disk as NAME-1.tif, as in the "
                f"authors' archive ({self.listed} {there}): put it there"
            )


@dataclass(frozen=True)
class SyntheticRecord:
    """A generated fundus photograph.

    Attributes:
        centre: name of the virtual centre.
        index: number of the image within it.
        seed: seed of the whole data set.
    """

    centre: str
    index: int
    seed: int

    @property
    def name(self) -> str:
        """Such as ``A-0007``."""
        return f"{self.centre}-{self.index:04d}"

    @property
    def origin(self) -> str:
        """The generator and the image's name."""
        return f"synthetic {self.name}"

    def stamp(self) -> Sequence[str | int]:
        """Version of the generator and the seed."""
        return [synthetic.VERSION, self.seed]

    def memory(self, size: int) -> int:
        """By the size at which it is rendered."""
        return _BYTES_PER_RENDERED_PIXEL * size * size

    def read(self, size: int) -> Sample:
        """Generate the pair at the asked-for size."""
        image, mask = synthetic.render(self.centre, self.index, seed=self.seed, size=size)
        return Sample(image, mask, size, size, value_counts(mask))


class SyntheticReader:
    """Procedural fundus photographs of virtual centres.

    Args:
        seed: of the generated images.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def domain_names(self) -> tuple[str, ...]:
        """The virtual centres."""
        return tuple(synthetic.CENTRES)

    def records(self, domain: str) -> Sequence[Record]:
        """All images of one centre.

        Raises:
            UserError: no such centre.
        """
        _require_known(domain, self.domain_names(), "data=synthetic")
        return [SyntheticRecord(domain, index, self._seed) for index in range(synthetic.CENTRES[domain].count)]


class FolderReader:
    """``ROOT/DOMAIN/{image,mask}/NAME.*``, paired by the name without its extension, sorted by it.

    Names that differ in their Unicode form alone are equal, and stay as the images have them. Hidden files are
    ignored.

    Args:
        root: folder of the domains.
        max_pixels: refuse larger files.
    """

    def __init__(self, root: Path, max_pixels: int) -> None:
        self._root = root
        self._max_pixels = max_pixels

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
        _require_known(domain, self.domain_names(), f"data.root={self._root}")
        folder = self._root / domain
        if not os.path.isdir(folder / "mask"):
            raise UserError(f"{folder / 'mask'} does not exist: put one mask per image there")
        images, faults = _by_name(folder / "image")
        masks, mask_faults = _by_name(folder / "mask")
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
        return [FileRecord(*pair, max_pixels=self._max_pixels) for pair in pairs]


class FundusReader:
    """The layout of the paper's authors: CSV files that list relative paths, columns ``image`` and ``mask``.

    ``<PREFIX>_train.csv`` is followed by ``<PREFIX>_test.csv``; a data set without such a split has one
    ``<PREFIX>.csv``. Rows are in file order. A mask named ``NAME.tif`` lies on disk as ``NAME-1.tif``.

    Args:
        root: folder of the CSV files, which their paths are relative to.
        domains: domain name -> prefix of its CSV files.
        shades: grey codes of the masks.
        max_pixels: refuse larger files.
    """

    def __init__(
        self, root: Path, domains: Mapping[str, str], shades: Mapping[str, Sequence[int]], max_pixels: int
    ) -> None:
        self._root = root
        self._domains = domains
        self._shades = shades
        self._max_pixels = max_pixels

    def domain_names(self) -> tuple[str, ...]:
        """The domains with at least one CSV file on disk, so that owning some of them is enough.

        Raises:
            UserError: there is none.
        """
        names = tuple(name for name in self._domains if any(map(os.path.isfile, self._lists(name))))
        if not names:
            expected = ", ".join(f"{prefix}_train.csv" for prefix in self._domains.values())
            raise UserError(
                f"data.root={self._root} holds no list of data.domains: add one of {expected} with its _test.csv, "
                "or one without _train"
            )
        return names

    def records(self, domain: str) -> Sequence[Record]:
        """The rows of one domain's CSV files.

        Raises:
            UserError: no such domain, or every fault of these files.
        """
        _require_known(domain, tuple(self._domains), "data.domains")
        train, test, single = self._lists(domain)
        split = os.path.isfile(train) or os.path.isfile(test)
        if not split and not os.path.isfile(single):
            raise UserError(
                f"domain '{domain}' is not on disk, neither {train} and {test.name} nor {single.name} exist: "
                "add them or leave it out of source and target"
            )
        records: list[Record] = []
        faults: list[str] = []
        for path in (train, test) if split else (single,):
            try:
                records += [self._record(pair) for pair in read_list(path)]
            except UserError as error:
                faults += error.faults
        if faults:
            raise UserError(faults)
        repeated = [name for name, count in Counter(record.name for record in records).items() if count > 1]
        if repeated:
            log.warning(
                "domain %s lists %d images more than once, such as %s; each row counts as an image",
                domain,
                len(repeated),
                repeated[0],
            )
        return records

    def _lists(self, domain: str) -> tuple[Path, Path, Path]:
        prefix = self._domains[domain]
        return (
            self._root / f"{prefix}_train.csv",
            self._root / f"{prefix}_test.csv",
            self._root / f"{prefix}.csv",
        )

    def _record(self, pair: ListedPair) -> FileRecord:
        """The files of a row; a mask ``NAME.tif`` is on disk as ``NAME-1.tif``."""
        moved = pair.mask.endswith(".tif")
        return FileRecord(
            pair.image,
            on_disk(self._root, pair.image),
            on_disk(self._root, f"{pair.mask[:-4]}-1.tif" if moved else pair.mask),
            shades=self._shades,
            listed=self._root / pair.mask if moved else None,
            max_pixels=self._max_pixels,
        )


def _require_known(domain: str, names: Sequence[str], place: str) -> None:
    """Refuse a domain that is not there."""
    if domain not in names:
        raise UserError(f"unknown domain '{domain}' of {place}: {nearest(domain, names)}")


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
        key = name_key(path.stem)
        if os.path.isdir(path):
            faults.append(f"{path} is a folder: put the files directly into {folder}")
        elif key in files:
            faults.append(f"{files[key]} and {path.name} share one name: keep one of them")
        else:
            files[key] = path
    return files, faults
