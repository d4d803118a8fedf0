"""How runs use the machine: sections of the configuration that change no number."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tta_bench.runtime.ranges import Range
from tta_bench.runtime.sections import Section, distinct


def _switch(key: str) -> BeforeValidator:
    """``true``, ``false`` or ``auto``; 1 and 0 are neither."""

    def check(value: Any) -> Any:
        if value == "auto" or isinstance(value, bool):
            return value
        raise ValueError(f"{key}={value}: give true, false or auto")

    return BeforeValidator(check)


def _as_devices(value: Any) -> Any:
    if value == "auto" or isinstance(value, list | tuple):
        return value
    raise ValueError(f"launch.devices={value}: give numbers of GPUs, such as [0,1], or auto")


Devices = Annotated[tuple[Annotated[int, Range(0, 2**10)], ...], distinct("launch.devices")]


class LaunchConfig(Section):
    """How the cells of a sweep share a machine; changes no number, but see ``docs/launchers.md`` on threads."""

    devices: Annotated[Literal["auto"] | Devices, BeforeValidator(_as_devices)]
    cells_per_device: Annotated[int, Range(1, 2**10)] = Field(description="at once on each GPU")
    pack: Annotated[Literal["auto"] | bool, _switch("launch.pack")] = Field(
        description="cells that differ in seeds and numbers share a batch"
    )


class RuntimeConfig(Section):
    """How the device is driven; changes no number."""

    graphs: Annotated[Literal["auto"] | bool, _switch("runtime.graphs")] = Field(
        description="passes through the network are recorded as CUDA graphs, which a CPU has none of"
    )
