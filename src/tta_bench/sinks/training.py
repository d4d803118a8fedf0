"""The training of a source model as a run of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tta_bench.runtime.files import write_atomically
from tta_bench.schema import RunConfig
from tta_bench.sinks.about import about_stage, about_training
from tta_bench.sinks.base import About, Point
from tta_bench.sinks.contents import TRAINING
from tta_bench.sinks.delivery import Live, send

Tell = Callable[[int, Mapping[str, float]], None]
"""``tell(epoch, values)``, epochs counted from 1."""


@contextmanager
def followed_training(config: RunConfig, folder: Path, going_on: bool) -> Iterator[Tell]:
    """A training that the destinations of ``config.logger`` follow; ``training.json`` keeps what they were told.

    Args:
        config: of the run that needs the source model.
        folder: of the source model.
        going_on: whether a training that was stopped goes on; then its epochs are told again, from the first.
    """
    with _followed(config, about_training(config, folder.name), folder, going_on) as tell:
        yield tell


@contextmanager
def followed_stage(config: RunConfig, target: str, folder: Path, going_on: bool) -> Iterator[Tell]:
    """The making of the adapted model of a target, in the same way."""
    with _followed(config, about_stage(config, target, folder.name), folder, going_on) as tell:
        yield tell


@contextmanager
def _followed(config: RunConfig, about: About, folder: Path, going_on: bool) -> Iterator[Tell]:
    live = Live(config.logger, about, folder, going_on=going_on)
    points: list[Point] = []
    begin = time.monotonic()

    def tell(epoch: int, values: Mapping[str, float]) -> None:
        points.append(Point("epoch", epoch, dict(values)))
        live.tell(points[-1])

    try:
        yield tell
    except BaseException:
        live.stop()
        raise
    summary = {**(points[-1].values if points else {}), "cost/seconds": round(time.monotonic() - begin, 1)}
    write_atomically(folder / TRAINING, json.dumps({"points": points, "summary": summary}, indent=1) + "\n")
    live.finish()


def send_training(config: RunConfig, folder: Path) -> None:
    """Send a training that was followed before to those who do not have it."""
    if (folder / TRAINING).is_file():
        send(config.logger, about_training(config, folder.name), folder)
