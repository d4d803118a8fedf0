"""Prepare domains: decode, check and resize every image once, and judge whole domains by what their files hold."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from tta_bench.data.cache import Entry, digest, open_entry, remove_leftovers, sole_maker, write_entry
from tta_bench.data.decoding import decode
from tta_bench.data.domain import Domain
from tta_bench.data.readers.base import Reader, Record, case_of, open_reader
from tta_bench.data.shades import MANY, shares
from tta_bench.errors import UserError, shown
from tta_bench.ops.geometry import Geometry, ScoreAt
from tta_bench.schema import DataConfig, RunConfig

log = logging.getLogger(__name__)

LAYOUT_VERSION = 2
"""Of the cache entries; raise it whenever the same files would be decoded into other arrays."""

FAULTS_SHOWN = 20
"""Further faults are only counted."""


class Prepared(NamedTuple):
    """A domain and the ``(height, width)`` in pixels of its images as stored."""

    domain: Domain
    sizes: tuple[tuple[int, int], ...]


def prepare(
    config: DataConfig,
    names: Sequence[str],
    cache: Path,
    *,
    score_at: ScoreAt = "network",
    labelled: bool = False,
    progress: bool = True,
) -> dict[str, Domain]:
    """Bring domains into memory-mapped arrays, from the cache where it is valid.

    Args:
        config: which images, read how.
        names: domains; repeated names count once.
        cache: folder of the cache entries, made if need be.
        score_at: size at which predictions will be compared with the masks.
        labelled: refuse domains without masks, before anything of them is decoded.
        progress: show a bar while images are decoded, if standard error is a terminal.

    Returns:
        The domains by name, in the order of ``names``.

    Raises:
        UserError: with the faults of all asked-for domains, at most :data:`FAULTS_SHOWN` of them in full; or
            the cache cannot be written.
    """
    sound, faults = survey(config, names, cache, score_at=score_at, labelled=labelled, progress=progress)
    if faults:
        every = list(chain(*faults.values()))
        shown = every[:FAULTS_SHOWN]
        if len(every) > len(shown):
            shown.append(f"... and {len(every) - len(shown)} more: 'tta-bench data check --all' lists them")
        raise UserError(shown)
    return {name: each.domain for name, each in sound.items()}


def prepared(config: RunConfig, names: Sequence[str], *, progress: bool = True) -> dict[str, Domain]:
    """:func:`prepare` domains with their masks for a run, at the size at which it scores."""
    cache, score_at = config.results_root / "data", config.protocol.score_at
    return prepare(config.data, names, cache, score_at=score_at, labelled=True, progress=progress)


def survey(
    config: DataConfig,
    names: Sequence[str],
    cache: Path,
    *,
    score_at: ScoreAt = "network",
    labelled: bool = False,
    progress: bool = True,
) -> tuple[dict[str, Prepared], dict[str, tuple[str, ...]]]:
    """As :func:`prepare`, but hand back the sound domains together with all faults of each of the others.

    Raises:
        UserError: ``data.root`` does not exist or the cache cannot be written.
    """
    reader = open_reader(config)
    remove_leftovers(cache)
    sound: dict[str, Prepared] = {}
    faults: dict[str, tuple[str, ...]] = {}
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bars:
        for name in dict.fromkeys(names):
            try:
                records = reader.records(name)[: config.limit]
                if labelled:
                    _require_masks(name, records, reader)
                entry = _entry(config, name, records, cache, bars, score_at)
                _check_values(config, name, records, [dict(counts) for counts in entry.index["counts"]])
            except UserError as error:
                faults[name] = error.faults
            except OSError as error:
                unwritable = (
                    f"the prepared images cannot be kept in {cache} ({error.strerror or error}): free space or "
                    "mend its permissions, or choose another folder with results_root=DIR"
                )
                raise UserError([*chain(*faults.values()), unwritable]) from error
            else:
                sound[name] = _prepared(config, name, records, entry, score_at)
    return sound, faults


def _prepared(config: DataConfig, name: str, records: Sequence[Record], entry: Entry, score_at: ScoreAt) -> Prepared:
    """A cache entry as a domain."""
    geometry = Geometry(config.image_size, config.fit)
    sizes = tuple((height, width) for height, width in entry.index["sizes"])
    cases = tuple(case for case in map(case_of, records) if case is not None)
    spacings = entry.index.get("spacings")
    domain = Domain(
        name=name,
        image_names=tuple(entry.index["image_names"]),
        images=entry.images,
        masks=entry.truths if geometry.fit == "tile" else entry.masks,
        classes=config.classes,
        fingerprint=digest([name, entry.index["content"], list(config.classes.items())]),
        geometry=geometry,
        sizes=sizes,
        truths=entry.truths,
        score_at=score_at,
        cases=cases if len(cases) == len(records) else None,
        spacings=None if spacings is None else tuple(None if each is None else tuple(each) for each in spacings),
    )
    return Prepared(domain, sizes)


def _entry(
    config: DataConfig, name: str, records: Sequence[Record], cache: Path, bars: Progress, score_at: ScoreAt
) -> Entry:
    """The cache entry of some records, made if it is absent or invalid."""
    reading = config.reading
    stamps = [[record.name, *record.stamp()] for record in records]
    geometry, labelled = Geometry(config.image_size, config.fit), all(record.labelled for record in records)
    # Only stretched images are scored at network size unless somebody asks for the other.
    truth = labelled and (config.fit != "stretch" or score_at == "stored")
    younger: list[Any] = [[config.fit, truth]] if config.fit != "stretch" or truth else []  # than many entries
    younger += [reading] if reading else []
    folder = cache / digest([LAYOUT_VERSION, config.name, config.image_size, config.shades, stamps, *younger])
    if entry := open_entry(folder):
        return entry
    with sole_maker(folder):
        if entry := open_entry(folder):  # another process has made it in the meantime
            return entry
        log.info("preparing %d images of domain %s", len(records), name)
        samples = bars.track(
            decode(records, geometry, truth), len(records), description=escape(f"Preparing {shown(name)}")
        )
        write_entry(folder, [record.name for record in records], geometry, labelled, truth, samples)
        if entry := open_entry(folder):
            return entry
    raise OSError(f"{folder} is not readable after writing it")


def _require_masks(name: str, records: Sequence[Record], reader: Reader) -> None:
    """Refuse a domain without masks."""
    missing = [record.origin for record in records if not record.labelled]
    if missing:
        keys = reader.mask_hint(name)
        raise UserError(
            f"domain '{name}' has no masks: training and scoring need one of each image, the first is {missing[0]}"
            + (f"; files that are there fit {keys}" if keys else "")
        )


def _check_values(
    config: DataConfig, name: str, records: Sequence[Record], counts: Sequence[Mapping[int, int]]
) -> None:
    """Refuse mask values that have no meaning; 0 is always background.

    Args:
        config: with the classes.
        name: of the domain.
        records: its images.
        counts: pixels of each mask value of each of them.

    Raises:
        UserError: naming the values, the first mask that has them and the key to set.
    """
    known = {0}.union(*config.classes.values())
    odd = [record.origin for record, values in zip(records, counts, strict=True) if not known.issuperset(values)]
    if not odd:
        return
    together = sum(map(Counter, counts), Counter())
    values = sorted(together)
    if len(values) > MANY:
        remedy = "so many values come from smoothing or compression, so export the class numbers anew as PNG"
    else:
        example = ",".join(str(value) for value in values if value)
        remedy = f"list the values of each class, for example data.classes.{next(iter(config.classes))}=[{example}]"
    classes = "; ".join(f"{key}: {list(members)}" for key, members in config.classes.items())
    raise UserError(
        f"domain '{name}': {len(odd)} of {len(records)} masks have values that data.classes ({classes}) does not "
        f"list (values found: {shares(together, values)}; first mask: {odd[0]}): {remedy}"
    )
