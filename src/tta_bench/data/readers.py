"""Readers: where the images of a data set lie and how its masks are coded, behind one small interface."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

import numpy as np

from tta_bench.config import DataConfig
from tta_bench.data import synthetic
from tta_bench.data.images import read_image, read_mask, resize
from tta_bench.errors import UserError, nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One decoded pair.

    Attributes:
        image: uint8 ``[size, size, 3]``, RGB.
        mask: uint8 ``[size, size]``, mask values.
        height: of the image as stored, pixels.
        width: of the image as stored, pixels.
        values: the mask values that occur before resizing, ascending.
    """

    image: np.ndarray
    mask: np.ndarray
    height: int
    width: int
    values: tuple[int, ...]


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
    # Unlike the methods of Path, os.path reports folders that may not be entered as absent.
    if root is None or not os.path.isdir(root):
        what = "is not a folder" if root is not None and os.path.exists(root) else "does not exist"
        raise UserError(f"data.root={config.root} {what}: give the folder of the images")
    if config.name == "folder":
        return FolderReader(root)
    if not config.domains:
        raise UserError("data=fundus needs data.domains: map each domain name to its file prefix, {B: REFUGE}")
    return FundusReader(root, config.domains)


@dataclass(frozen=True)
class FileRecord:
    """A pair of files.

    Attributes:
        name: identifier of the image within its domain.
        image: path of the image.
        mask: path of the mask.
        shades: the mask codes the optic disc in shades of grey, see :func:`disc_from_shades`.
    """

    name: str
    image: Path
    mask: Path
    shades: bool = False

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

    def read(self, size: int) -> Sample:
        """Decode, check and resize the pair.

        Raises:
            UserError: with the faults of both files, or the mismatch between them.
        """
        faults: list[str] = []
        try:
            image = read_image(self.image)
            if image.min() == image.max():
                faults.append(
                    f"{self.image} is constant (every value is {image.min()}), nothing can be seen in it: "
                    "remove the pair"
                )
        except UserError as error:
            faults += error.faults
        try:
            mask = read_mask(self.mask, grey=self.shades)
            if self.shades:
                mask = disc_from_shades(mask, self.mask)
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
        values = tuple(np.unique(mask).tolist())
        return Sample(*resize(image, mask, size), height, width, values)


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

    def read(self, size: int) -> Sample:
        """Generate the pair at the asked-for size."""
        image, mask = synthetic.render(self.centre, self.index, seed=self.seed, size=size)
        return Sample(image, mask, size, size, tuple(np.unique(mask).tolist()))


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

    Hidden files are ignored.

    Args:
        root: folder of the domains.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def domain_names(self) -> tuple[str, ...]:
        """The sub-folders that have an ``image`` folder, sorted.

        Raises:
            UserError: there is none, or the root cannot be listed.
        """
        names = tuple(path.name for path in _visible(self._root) if os.path.isdir(path / "image"))
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
        images, faults = _by_stem(folder / "image")
        masks, mask_faults = _by_stem(folder / "mask")
        faults += mask_faults
        faults += [
            f"{images[stem]} has no mask: add {folder / 'mask' / stem}.* or remove the image"
            for stem in images.keys() - masks.keys()
        ]
        faults += [
            f"{masks[stem]} has no image: add {folder / 'image' / stem}.* or remove the mask"
            for stem in masks.keys() - images.keys()
        ]
        if not images and not masks:
            faults.append(f"{folder / 'image'} holds no image: fill it or leave domain '{domain}' out")
        if faults:
            raise UserError(sorted(faults))
        return [FileRecord(stem, images[stem], masks[stem]) for stem in sorted(images)]


class FundusReader:
    """The layout of the paper's authors: CSV files that list relative paths, columns ``image`` and ``mask``.

    ``<PREFIX>_train.csv`` is followed by ``<PREFIX>_test.csv``; a data set without such a split has one
    ``<PREFIX>.csv``. Rows are in file order. A mask named ``NAME.tif`` lies on disk as ``NAME-1.tif``.

    Args:
        root: folder of the CSV files, which their paths are relative to.
        domains: domain name -> prefix of its CSV files.
    """

    def __init__(self, root: Path, domains: Mapping[str, str]) -> None:
        self._root = root
        self._domains = domains

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
                records += self._rows(path)
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

    def _rows(self, path: Path) -> list[FileRecord]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, skipinitialspace=True)
                columns = [column.strip() for column in reader.fieldnames or ()]
                reader.fieldnames = columns
                rows = [(reader.line_num, row) for row in reader]
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: add it, _train.csv and _test.csv belong together") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read ({error}): save it as CSV in UTF-8") from None
        if missing := [column for column in ("image", "mask") if column not in columns]:
            found = ", ".join(columns) or "none"
            raise UserError(
                [
                    f"{path} has no column '{column}' (columns found: {found}): rename the right one, "
                    f"{nearest(column, columns)}"
                    for column in missing
                ]
            )
        if not rows:
            raise UserError(f"{path} lists no image: add rows below its header")
        faults = []
        records = []
        for line, row in rows:
            image, mask = ((row[column] or "").strip() for column in ("image", "mask"))
            for column, entry in (("image", image), ("mask", mask)):
                if not entry:
                    faults.append(f"{path}, line {line}: column '{column}' is empty: fill it or remove the row")
                elif _leaves_root(entry):
                    faults.append(f"{path}, line {line}: {column} '{entry}' leaves data.root: list a path inside it")
            on_disk = f"{mask[:-4]}-1.tif" if mask.endswith(".tif") else mask
            records.append(FileRecord(image, self._root / image, self._root / on_disk, shades=True))
        if faults:
            raise UserError(faults)
        return records


def disc_from_shades(shades: np.ndarray, path: Path) -> np.ndarray:
    """Mask values of the grey masks of the paper's data sets.

    Args:
        shades: uint8 ``[height, width]``: 255 background, 0 optic cup, anything between neuroretinal rim.
        path: of the mask, for the message.

    Returns:
        uint8 ``[height, width]``: 0 background, 1 rim, 2 cup.

    Raises:
        UserError: nothing is background, so the mask is coded in another way.
    """
    if shades.max() < 255:
        raise UserError(
            f"{path} has no background (255; its largest value is {shades.max()}): write 255 for background, 0 for "
            "cup and 128 for rim, or use data=folder for class numbers"
        )
    return np.select([shades == 255, shades == 0], [np.uint8(0), np.uint8(2)], np.uint8(1))


def _require_known(domain: str, names: Sequence[str], place: str) -> None:
    """Refuse a domain that is not there."""
    if domain not in names:
        raise UserError(f"unknown domain '{domain}' of {place}: {nearest(domain, names)}")


def _leaves_root(entry: str) -> bool:
    """Whether a listed path is absolute or climbs out of the root."""
    return PurePosixPath(entry).is_absolute() or PureWindowsPath(entry).is_absolute() or ".." in Path(entry).parts


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden, sorted by name."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): mend its permissions") from None


def _by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files of a folder by their name without extension, and what is wrong with the listing."""
    files: dict[str, Path] = {}
    faults: list[str] = []
    for path in _visible(folder):
        if os.path.isdir(path):
            faults.append(f"{path} is a folder: put the files directly into {folder}")
        elif path.stem in files:
            faults.append(f"{files[path.stem]} and {path.name} share one name: keep one of them")
        else:
            files[path.stem] = path
    return files, faults
