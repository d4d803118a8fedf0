"""What a sink is: a place that follows runs live, beside the results folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tta_bench.errors import UserError
from tta_bench.registry import Registry
from tta_bench.runtime.sections import Section
from tta_bench.schema import validate_section

Loggers = Mapping[str, Mapping[str, Any]]
"""The section ``logger`` of a configuration: name of a sink -> its options; empty where there is none."""


class SinkOptions(Section):
    """Base of the keys of ``conf/logger/NAME.yaml``. Together they tell one destination from another."""


@dataclass(frozen=True)
class About:
    """What a destination is told of a run before its first point.

    Attributes:
        id: the same whenever the run goes on or is sent again.
        name: method and what differs from the defaults.
        job: ``cell``, ``training`` or ``report``.
        group: the experiment or sweep that it belongs to.
        tags: data set, source and the like.
        config: all of it, resolved; plain values.
    """

    id: str
    name: str
    job: str
    group: str | None
    tags: list[str]
    config: Mapping[str, Any]


class Point(NamedTuple):
    """Values at one position of a curve.

    Attributes:
        axis: what the positions count: ``A/image`` for those of target A, or ``epoch``.
        position: counted from 1.
        values: finite, by the names of their curves; those of a target begin with its name and a slash.
    """

    axis: str
    position: int
    values: Mapping[str, float]


class Grid(NamedTuple):
    """A small table: of a report, or of a cell's targets."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True)
class Outcome:
    """What there is at the end of a run.

    Attributes:
        summary: names -> numbers or short texts.
        pictures: name -> PNG.
        grid: a line per target, or the table of a report; None for a training.
        files: to be kept with the run.
    """

    summary: Mapping[str, float | str]
    pictures: Mapping[str, Path] = field(default_factory=dict)
    grid: Grid | None = None
    files: Sequence[Path] = ()


class Run(ABC):
    """An open run of a destination. All is called from a thread of its own, which may wait and raise what it likes.

    Args:
        options: of the sink.
        about: the run. What a destination has of an earlier one with this id is replaced, unless it goes on.
        folder: of the run's files; the library may keep its own below it.
        going_on: whether a run that was stopped goes on; all its points come again, from the first.
        patience: seconds after which a library that knows limits gives up.
    """

    held = 0
    """How many of the first points are there already, and are not logged again."""

    @abstractmethod
    def __init__(self, options: Any, about: About, folder: Path, going_on: bool, patience: float) -> None: ...

    @abstractmethod
    def log(self, point: Point) -> None:
        """Send a point."""

    @abstractmethod
    def finish(self, outcome: Outcome) -> None:
        """Send what there is at the end, and return once it has arrived."""

    @abstractmethod
    def stop(self) -> None:
        """The run has failed or was interrupted; it may go on later."""


@dataclass(frozen=True)
class Sink:
    """A registered sink.

    Attributes:
        title: what messages call it.
        options: the keys of its YAML.
        open: begins a run.
        extra: of this package, called like the library that it installs; None where nothing more is needed.
    """

    title: str
    options: type[SinkOptions]
    open: type[Run]
    extra: str | None = None


SINKS: Registry[Sink] = Registry("sink", "tta_bench.sinks")


def register_sink(
    name: str, title: str, options: type[SinkOptions], extra: str | None = None
) -> Callable[[type[Run]], type[Run]]:
    """Class decorator: make a sink available as ``logger=name``; the arguments are those of :class:`Sink`.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(run: type[Run]) -> type[Run]:
        SINKS.register(name)(Sink(title, options, run, extra))
        return run

    return decorate


def options_of(name: str, section: Mapping[str, Any]) -> SinkOptions:
    """The options of a sink, checked.

    Raises:
        UserError: no such sink, or keys and values that it does not take.
    """
    return validate_section(SINKS.get(name).options, section, f"logger.{name}")


def missing_libraries(names: Iterable[str]) -> list[str]:
    """A sentence for each of these sinks whose library is not installed."""
    extras = {name: SINKS.get(name).extra for name in names}
    return [
        f"logger={name} needs a library that is not installed: pip install 'tta-bench[{extra}]'"
        for name, extra in extras.items()
        if extra is not None and find_spec(extra) is None
    ]


def sink_faults(loggers: Loggers) -> list[str]:
    """What is wrong with a section ``logger``, in sentences."""
    faults: list[str] = []
    for name, section in loggers.items():
        try:
            options_of(name, section)
        except UserError as error:
            faults += error.faults
    return faults
