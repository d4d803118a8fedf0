"""What a metric is: a pure function of a predicted and a true mask, one value per mask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tta_bench.registry import Registry

PRIMARY = "dice"
"""The metric that every cell has and every table shows first."""

NAME = re.compile(r"[a-z][a-z0-9]*")
"""Of a metric: without an underscore, so that no column ``<metric>_<class>`` can be one of another metric."""


@dataclass(frozen=True)
class Metric:
    """A registered metric; called, it checks what every metric takes for granted.

    Attributes:
        name: in ``metrics=``, and of its columns ``<name>_<class>…,<name>``.
        unit: ``%`` or ``px``, for instance; empty where the values have none.
        higher_is_better: which way it is read.
        function: see :func:`register_metric`.
    """

    name: str
    unit: str
    higher_is_better: bool
    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """The value of every mask.

        Args:
            prediction: bool ``[..., H, W]``.
            truth: bool ``[..., H, W]``.

        Returns:
            float64 ``[...]``; NaN where the metric has no value.

        Raises:
            ValueError: masks that are not boolean or differ in shape, or a function that returns something else.
        """
        if prediction.dtype != torch.bool or truth.dtype != torch.bool:
            raise ValueError(f"masks must be bool, not {prediction.dtype} and {truth.dtype}")
        if prediction.shape != truth.shape:
            raise ValueError(f"shapes differ: {list(prediction.shape)} and {list(truth.shape)}")
        values = self.function(prediction, truth)
        if values.dtype != torch.float64 or values.shape != truth.shape[:-2]:
            raise ValueError(f"{self.name} returns {values.dtype} {list(values.shape)} of masks {list(truth.shape)}")
        return values

    @property
    def title(self) -> str:
        """As in a sentence; other metrics than Dice are called by their initials."""
        return "Dice" if self.name == PRIMARY else self.name.upper()

    @property
    def in_unit(self) -> str:
        """The title with the unit in a word, as in ``Dice in percent``."""
        return self.title + (f" in {'percent' if self.unit == '%' else self.unit}" if self.unit else "")

    def best(self, values: Iterable[float]) -> list[float]:
        """Different values, the best first."""
        return sorted(set(values), reverse=self.higher_is_better)


METRICS: Registry[Metric] = Registry("metric", "tta_bench.metrics")


def register_metric(
    name: str, unit: str, *, higher_is_better: bool
) -> Callable[[Callable[[Tensor, Tensor], Tensor]], Metric]:
    """Function decorator: make a metric available by name.

    The function is pure and maps bool ``prediction`` and ``truth`` ``[..., H, W]`` to float64 ``[...]``.

    Args:
        name: lower-case letters and digits.
        unit: of its values.
        higher_is_better: which way they are read.

    Raises:
        ValueError: the name is taken or has other characters.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a metric's name has lower-case letters and digits alone, unlike '{name}'")

    def decorate(function: Callable[[Tensor, Tensor], Tensor]) -> Metric:
        return METRICS.register(name)(Metric(name, unit, higher_is_better, function))

    return decorate
