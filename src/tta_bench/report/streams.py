"""The streams of a table's finished cells: images in the order in which they were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tta_bench.report.model import Table
from tta_bench.schema import RunConfig


class StreamKey(NamedTuple):
    """What streams have to share for their numbers to be compared image by image.

    Attributes:
        source: name of the source domain.
        target: name of the target domain.
        training: seed of the source model.
        order: of the images, as ``protocol.order``.
    """

    source: str
    target: str
    training: int
    order: int

    @classmethod
    def of(cls, config: RunConfig, target: str) -> StreamKey:
        """The key of one target of a cell with this configuration."""
        return cls(config.source, target, config.training.seed, config.protocol.order)


@dataclass(frozen=True)
class Stream:
    """One target of one finished cell.

    Attributes:
        key: what it is a stream of.
        rows: of ``per_image.csv``, in stream order.
    """

    key: StreamKey
    rows: Sequence[Mapping[str, str]]

    def column(self, name: str) -> NDArray[np.float64]:
        """``[images]``: the values of a column, NaN where there is none."""
        return np.array([float(row.get(name) or "nan") for row in self.rows])


def streams_of(table: Table) -> dict[str, list[Stream]]:
    """Row label -> the streams of its finished cells; rows without any are left out."""
    found: dict[str, list[Stream]] = {row.label: [] for row in table.rows}
    finished = {(one.row, one.cell.folder().hash): one.rows for one in table.finished}
    for planned in table.plan.cells:
        rows = finished.get((planned.row, planned.cell.folder().hash), ())
        for target in dict.fromkeys(row["target"] for row in rows):
            own = sorted((row for row in rows if row["target"] == target), key=lambda row: int(row["position"]))
            found[planned.row].append(Stream(StreamKey.of(planned.cell.config, target), own))
    return {label: streams for label, streams in found.items() if streams}


def shared_streams(streams: Mapping[str, Sequence[Stream]], reference: str) -> dict[str, list[list[Stream]]]:
    """The streams on which rows can be compared: those that all of them have finished.

    Rows that share no stream with the others are left out; the reference is kept first, then those with most streams.

    Args:
        streams: row label -> all of its streams.
        reference: label of the row that others are compared with, finished or not.

    Returns:
        Row label -> per shared stream those of its adaptation seeds, of which rows may have different ones.
    """
    found: dict[str, dict[StreamKey, list[Stream]]] = {label: {} for label in streams}
    for label, own in streams.items():
        for stream in own:
            found[label].setdefault(stream.key, []).append(stream)
    shared: set[StreamKey] = set()
    for label in sorted(found, key=lambda label: (label != reference, -len(found[label]))):
        shared = shared & found[label].keys() or shared or set(found[label])
    return {
        label: [seeds for key, seeds in own.items() if key in shared]
        for label, own in found.items()
        if shared <= own.keys()
    }


def has_values(stream: Stream, column: str) -> bool:
    """Whether any image has a value in a column."""
    return bool(np.isfinite(stream.column(column)).any())


def mean_over_seeds(streams: Sequence[Stream], column: str) -> NDArray[np.float64]:
    """``[images]``: so that a row counts every stream once, however many of its adaptation seeds are finished."""
    return np.asarray(np.mean([stream.column(column) for stream in streams], axis=0))


def left_out(table: Table, shared: Mapping[str, Sequence[Sequence[Stream]]]) -> str:
    """A sentence on what is planned but not among the shared streams, after a space; empty if all is there."""
    drawn = {seeds[0].key for own in shared.values() for seeds in own}
    planned = {
        StreamKey.of(config, target)
        for config in (planned.cell.config for planned in table.plan.cells)
        for target in table.targets[config.source]
    }
    with_any, with_gaps = ({key.source for key in keys} for keys in (drawn, planned - drawn))
    names = {
        "row": [row.label for row in table.rows if row.label not in shared],
        "source": [source for source in table.sources if source not in with_any],
        "some repeats of source": [source for source in table.sources if source in with_any & with_gaps],
    }
    parts = [f"{kind}{'s' * (len(found) > 1)} {', '.join(found)}" for kind, found in names.items() if found]
    return f" Not drawn, because not every row has finished the same streams: {'; '.join(parts)}." if parts else ""
