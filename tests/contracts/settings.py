"""How the contract tests build each method: one entry per method, defaults for methods that have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args, get_type_hints

from tta_bench.methods.base import METHODS, MethodOptions
from tta_bench.methods.options import default_options
from tta_bench.models.normalisation import (
    AlignedStatistics,
    BatchStatistics,
    MedianStatistics,
    MixedStatistics,
    RectifiedStatistics,
    RunningStatistics,
    SourceStatistics,
)


@dataclass(frozen=True)
class Setting:
    """What the contracts need to know about a method.

    Attributes:
        options: overrides of the method's default options.
        no_update: further overrides that switch every update off, None if the method has no such switch.
        control: the method that predicts the same when updates are off.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    no_update: Mapping[str, Any] | None = None
    control: str = "bn_only"


SETTINGS: dict[str, Setting] = {
    # A memory that fills within the streams, rates far above rounding.
    "dltta": Setting(
        {"learning_rate": 1e-3, "memory": 3, "neighbours": 2, "rate_scale": 0.1, "largest_rate": 1e-2},
        no_update={"learning_rate": 0.0, "rate_scale": 0.0},
    ),
    # Without a step it is the mixture alone, here at the weight of the control.
    "domain_adaptor": Setting(
        {"learning_rate": 1e-3}, no_update={"learning_rate": 0.0, "source_weight": 0.9}, control="alpha_bn"
    ),
    "fda": Setting(no_update={"radius": 0.0}, control="no_adapt"),
    "alpha_bn": Setting(no_update={"source_weight": 1.0}, control="no_adapt"),
    # An untrained network is not surer.
    "diga": Setting({"confidence": 0.5}, no_update={"prototype_weight": 0.0, "source_weight": 0.0}),
    "dua": Setting(no_update={"initial_momentum": 0.0, "floor": 0.0}, control="no_adapt"),
    # An untrained network is not surer.
    "grad_cl": Setting({"learning_rate": 1e-3, "threshold": 0.5}, no_update={"learning_rate": 0.0}),
    # Without a step it is the mixture alone, here at the weight of the control.
    "memo": Setting({"learning_rate": 0.1, "prior": 9.0}, no_update={"learning_rate": 0.0}, control="alpha_bn"),
    "medbn": Setting(no_update={}, control="medbn"),
    "no_adapt": Setting(no_update={}, control="no_adapt"),
    "bn_only": Setting(no_update={}),
    # A memory that is in use within the streams; with a warm-up of nothing only the source statistics count.
    "vptta": Setting(
        {"prompt_size": 3, "memory": 3, "neighbours": 2},
        no_update={"learning_rate": 0.0, "warm_up": 1e-12, "memory": 9, "neighbours": 9},
        control="no_adapt",
    ),
    # No pixel of an untrained network is reliable by the default margin.
    "sar": Setting({"learning_rate": 1e-3, "margin": 0.95}, no_update={"learning_rate": 0.0}),
}


def setting_of(name: str) -> Setting:
    """The entry of the table, or what the options of a method that is not in it suggest."""
    if name in SETTINGS:
        return SETTINGS[name]
    if "learning_rate" not in {f.name for f in fields(METHODS.get(name).Options)}:
        return Setting()
    # A rate above the default makes updates visible far above rounding.
    return Setting({"learning_rate": 1e-3}, no_update={"learning_rate": 0.0})


def options_of(name: str, **overrides: Any) -> MethodOptions:
    """Those of the YAML, with what the table and then the overrides say."""
    return default_options(name, **{**setting_of(name).options, **overrides})


def varied(options: MethodOptions, option: str, factor: float) -> MethodOptions:
    """The same with another value of an option: a number times the factor, or another one of its words."""
    value: Any = getattr(options, option)
    words = get_args(get_type_hints(type(options))[option])
    other = next(each for each in words if each != value) if isinstance(value, str) else factor * value
    return replace(options, **{option: other})


POLICIES = {
    "SourceStatistics": lambda mean, variance: SourceStatistics(),
    "BatchStatistics": lambda mean, variance: BatchStatistics(),
    "MixedStatistics": lambda mean, variance: MixedStatistics(0.5),
    "AlignedStatistics": lambda mean, variance: AlignedStatistics(mean.new_full((2, 1), 0.5)),
    "MedianStatistics": lambda mean, variance: MedianStatistics(),
    "RunningStatistics": lambda mean, variance: RunningStatistics(mean, variance, 0.1),
    "RectifiedStatistics": lambda mean, variance: RectifiedStatistics(0.5, mean.repeat(2, 1), variance.repeat(2, 1)),
}
"""Each policy for two streams with two views each, from mean and variance ``[2, channels]``."""
