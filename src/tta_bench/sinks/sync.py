"""What destinations lack of a results folder: found by what is written there, and sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tta_bench.errors import UserError
from tta_bench.sinks.base import SINKS
from tta_bench.sinks.delivery import recorded, send, unsent

PLACES = ("cells", "source_models", "adapted_models", "reports")
"""Folders below the results root whose folders are runs."""


class Waiting(NamedTuple):
    """A finished run that a destination lacks."""

    folder: Path
    sink: str
    options: dict[str, Any]
    why: str


def waiting(root: Path) -> Iterator[Waiting]:
    """What is not known to have arrived where it was to go; what was kept offline is to go online.

    Args:
        root: folder of all results.
    """
    for folder in (folder for place in PLACES for folder in sorted((root / place).glob("*"))):
        record = recorded(folder)
        for sink, options in record[2] if record is not None else ():
            wanted = options | ({"mode": "online"} if options.get("mode") == "offline" else {})
            try:
                for name, why in unsent({sink: wanted}, folder):
                    yield Waiting(folder, name, wanted, why)
            except UserError as error:  # of a plug-in that is gone, or has other options now
                yield Waiting(folder, sink, wanted, str(error))


def synchronise(root: Path) -> tuple[int, list[str]]:
    """Send what is waiting.

    Args:
        root: folder of all results.

    Returns:
        How many runs have arrived, and a sentence per reason for which others have not.
    """
    before = {(one.folder, one.sink, str(one.options)): one for one in waiting(root)}
    for one in before.values():
        record = recorded(one.folder)
        if record is not None and one.sink in SINKS.names():
            about, compared, _ = record
            send({one.sink: one.options}, about, one.folder, compared)
    left: dict[tuple[str, str], list[Path]] = {}
    after = {(one.folder, one.sink, str(one.options)): one for one in waiting(root)}
    for one in after.values():
        title = SINKS.get(one.sink).title if one.sink in SINKS.names() else one.sink
        left.setdefault((title, one.why), []).append(one.folder)
    sentences = [
        f"{title} lacks {len(folders)} run{'s' if len(folders) > 1 else ''} ({why}): {folders[0]}"
        + (", …" if len(folders) > 1 else "")
        for (title, why), folders in left.items()
    ]
    return len(before) - len(after), sentences
