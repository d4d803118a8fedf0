"""The streams of a table's finished cells: images in the order in which they were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tta_bench.report.model import Table
from tta_bench.schema import RunConfig


class StreamKey(NamedTuple):
    """What streams have to share for their numbers to be compared image by image: domains, training seed and order."""

    source: str
    target: str
    training: int
    order: int


class Stream(NamedTuple):
    """One target of one finished cell, with its rows of ``per_image.csv`` in stream order."""

    key: StreamKey
    rows: Sequence[Mapping[str, str]]

    def column(self, name: str) -> NDArray[np.float64]:
        """``[images]``: the values of a column, NaN where there is none."""
        return np.array([float(row.get(name) or "nan") for row in self.rows])


def key_of(config: RunConfig, target: str) -> StreamKey:
    """Of one target of a cell with this configuration."""
    return StreamKey(config.source, target, config.training.seed, config.protocol.order)


def streams_of(table: Table) -> dict[str, list[Stream]]:
    """Row label -> the streams of its finished cells; rows without any are left out."""
    streams: dict[str, list[Stream]] = {row.label: [] for row in table.rows}
    finished = {(result.row, result.cell.folder().hash): result.rows for result in table.finished}
    for planned in table.plan.cells:
        rows = finished.get((planned.row, planned.cell.folder().hash), ())
        for target in dict.fromkeys(row["target"] for row in rows):
            images = sorted((row for row in rows if row["target"] == target), key=lambda row: int(row["position"]))
            streams[planned.row].append(Stream(key_of(planned.cell.config, target), images))
    return {label: some for label, some in streams.items() if some}


def shared_streams(streams: Mapping[str, Sequence[Stream]], reference: str) -> dict[str, list[list[Stream]]]:
    """The streams on which rows can be compared: those that all of them have finished.

    Rows that share no stream with the others are left out; the reference is kept first, then those with most streams.

    Args:
        streams: row label -> all of its streams.
        reference: label of the row that others are compared with, finished or not.

    Returns:
        Row label -> per shared stream those of its adaptation seeds, of which rows may have different ones.
    """
    by_key: dict[str, dict[StreamKey, list[Stream]]] = {label: {} for label in streams}
    for label, of_row in streams.items():
        for stream in of_row:
            by_key[label].setdefault(stream.key, []).append(stream)
    shared: set[StreamKey] = set()
    for label in sorted(by_key, key=lambda label: (label != reference, -len(by_key[label]))):
        shared = shared & by_key[label].keys() or shared or set(by_key[label])
    return {
        label: [seeds for key, seeds in of_row.items() if key in shared]
        for label, of_row in by_key.items()
        if shared <= of_row.keys()
    }


def has_values(stream: Stream, column: str) -> bool:
    """Whether any image has a value in a column."""
    return bool(np.isfinite(stream.column(column)).any())


def mean_over_seeds(streams: Sequence[Stream], column: str) -> NDArray[np.float64]:
    """``[images]``: so that a row counts every stream once, however many of its adaptation seeds are finished."""
    return np.asarray(np.mean([stream.column(column) for stream in streams], axis=0))


def left_out(table: Table, shared: Mapping[str, Sequence[Sequence[Stream]]]) -> str:
    """A sentence on what is planned but not among the shared streams, after a space; empty if all is there."""
    drawn = {seeds[0].key for streams in shared.values() for seeds in streams}
    configs = [planned.cell.config for planned in table.plan.cells]
    planned = {key_of(config, target) for config in configs for target in table.targets.get(config.source, ())}
    with_any, with_gaps = ({key.source for key in keys} for keys in (drawn, planned - drawn))
    absent = {
        "row": [row.label for row in table.rows if row.label not in shared],
        "source": [source for source in table.sources if source not in with_any],
        "some repeats of source": [source for source in table.sources if source in with_any & with_gaps],
    }
    parts = [f"{kind}{'s' * (len(names) > 1)} {', '.join(names)}" for kind, names in absent.items() if names]
    return f" Not drawn, because not every row has finished the same streams: {'; '.join(parts)}." if parts else ""
