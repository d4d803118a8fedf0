"""What a sink is: a place that takes finished results beside the results folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tta_bench.errors import UserError
from tta_bench.records.store import CellFolder
from tta_bench.registry import Registry
from tta_bench.schema import LoggerConfig, validate_section

Send = Callable[[Any, CellFolder, float], None]
"""``send(options, cell, patience)``: sends a finished cell within some seconds, or raises whatever it likes."""


@dataclass(frozen=True)
class Sink:
    """A registered sink.

    Attributes:
        title: what messages call it.
        options: the keys of its YAML. All but those that are excluded from a dump tell one destination from another.
        send: see :data:`Send`.
    """

    title: str
    options: type[LoggerConfig]
    send: Send


SINKS: Registry[Sink] = Registry("sink", "tta_bench.sinks")


def register_sink(name: str, title: str, options: type[LoggerConfig]) -> Callable[[Send], Send]:
    """Function decorator: make a sink available as ``logger.name``; the arguments are those of :class:`Sink`.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(send: Send) -> Send:
        SINKS.register(name)(Sink(title, options, send))
        return send

    return decorate


def sink_of(config: LoggerConfig) -> tuple[Sink, LoggerConfig] | None:
    """The sink and its options, checked; None where results go to their folder only.

    Raises:
        UserError: no such sink, or keys and values that it does not take.
    """
    if config.name == "none":
        return None
    sink = SINKS.get(config.name)
    return sink, validate_section(sink.options, config.model_dump(), "logger")


def sink_faults(section: Mapping[str, Any]) -> tuple[str, ...]:
    """What is wrong with a section ``logger``, in sentences."""
    try:
        sink_of(validate_section(LoggerConfig, section, "logger"))
    except UserError as error:
        return error.faults
    return ()
