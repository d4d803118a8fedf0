"""``data=fundus``: the lists of pairs of the paper's authors, with grey masks of disc and cup."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tta_bench.data.file_record import FileRecord
from tta_bench.data.files import on_disk
from tta_bench.data.hints import folder_below
from tta_bench.data.lists import ListedPair, read_list
from tta_bench.data.readers.base import Reader, Record, existing_root, register_reader, require_known
from tta_bench.errors import UserError
from tta_bench.runtime.files_section import IntensityConfig
from tta_bench.schema import SHADES, DataConfig

log = logging.getLogger(__name__)


@register_reader("fundus")
class FundusReader(Reader):
    """The layout of the paper's authors: CSV files that list relative paths, columns ``image`` and ``mask``.

    ``<PREFIX>_train.csv`` is followed by ``<PREFIX>_test.csv``; a data set without such a split has one
    ``<PREFIX>.csv``. Rows are in file order. A mask named ``NAME.tif`` lies on disk as ``NAME-1.tif``.

    Args:
        root: folder of the CSV files, which their paths are relative to.
        domains: domain name -> prefix of its CSV files.
        shades: grey codes of the masks.
        max_pixels: refuse larger files.
        intensity: which pixel values become black and white.
    """

    needs = ("root", "domains")
    decodes_shades = True
    takes = ("intensity",)

    def __init__(
        self,
        root: Path,
        domains: Mapping[str, str],
        shades: Mapping[str, Sequence[int]],
        max_pixels: int,
        intensity: IntensityConfig | None = None,
    ) -> None:
        self._root = root
        self._domains = domains
        self._shades = shades
        self._max_pixels = max_pixels
        self._intensity = intensity

    @classmethod
    def from_config(cls, config: DataConfig) -> Self:
        """By ``data.root``, ``data.domains`` and ``data.shades``."""
        shades = config.shades or SHADES
        return cls(existing_root(config), config.domains or {}, shades, config.max_pixels, config.intensity)

    def domain_names(self) -> tuple[str, ...]:
        """The domains with at least one CSV file on disk, so that owning some of them is enough.

        Raises:
            UserError: there is none.
        """
        names = tuple(name for name in self._domains if any(map(os.path.isfile, self._lists(name))))
        if not names:
            expected = ", ".join(f"{prefix}_train.csv" for prefix in self._domains.values())
            if (near := self._root_nearby()) is not None:
                raise UserError(f"data.root={self._root} holds no list, and {near} does: set data.root={near}")
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
        require_known(domain, tuple(self._domains), "data.domains")
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

    def _root_nearby(self) -> Path | None:
        """The folder that holds a list, above ``data.root`` or below it."""

        def holds(folder: Path) -> bool:
            return any(os.path.isfile(folder / path.name) for name in self._domains for path in self._lists(name))

        above = Path(os.path.abspath(self._root)).parents[:2]
        return next(filter(holds, above), None) or folder_below(self._root, holds)

    def _lists(self, domain: str) -> tuple[Path, Path, Path]:
        train, test, single = (f"{self._domains[domain]}{part}.csv" for part in ("_train", "_test", ""))
        return self._root / train, self._root / test, self._root / single

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
            intensity=self._intensity,
        )
