"""What a metric is: a pure function of what was predicted and what is true, with its unit, range and direction."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tta_bench.registry import Registry

PRIMARY = "dice"
"""The metric that every cell has and every table shows first."""

NAME = re.compile(r"[a-z][a-z0-9]*")
"""Of a metric: without an underscore, so that no column ``<metric>_<class>`` can be one of another metric."""

Direction = Literal["higher", "lower", "none"]
"""Which values are better; ``none``: neither, the metric describes."""

Kind = Literal["masks", "surfaces", "probabilities", "classes"]
"""What a metric's function is given, see :func:`register_metric`."""

EmptyRule = Literal["one", "skip"]
"""Of a class that neither the prediction nor the truth has, see :meth:`Metric.score`."""


def pixels(mask: Tensor) -> int:
    """How many a bool mask has; NumPy counts ten times as fast as torch adds up."""
    return int(np.count_nonzero(mask.numpy(force=True)))


def areas(prediction: Tensor, truth: Tensor) -> tuple[int, int, int]:
    """Pixels of a predicted mask, of the true one, and of both at once."""
    found, true = prediction.numpy(force=True), truth.numpy(force=True)
    return int(np.count_nonzero(found)), int(np.count_nonzero(true)), int(np.count_nonzero(found & true))


@dataclass(frozen=True)
class Sample:
    """An image or a volume, with all that a metric may look at.

    Attributes:
        prediction: bool ``[classes, H, W]`` or ``[classes, D, H, W]``.
        truth: bool, of the same shape.
        classes: their names.
        spacing: side lengths of a pixel or voxel, one for each dimension of a mask: 1 for distances in pixels.
        probabilities: of every class, of the same shape, in [0, 1]; None where they were not kept.
    """

    prediction: Tensor
    truth: Tensor
    classes: Sequence[str]
    spacing: tuple[float, ...] = (1.0, 1.0)
    probabilities: Tensor | None = None

    def emptiness(self) -> tuple[str, ...]:
        """Of every class, which masks have no pixel: ``both``, ``truth``, ``prediction`` or none of them (empty)."""
        masks = [mask.numpy(force=True) for mask in (self.prediction, self.truth)]
        filled = zip(*(mask.any(axis=tuple(range(1, mask.ndim))).tolist() for mask in masks), strict=True)
        return tuple("" if p and t else "truth" if p else "prediction" if t else "both" for p, t in filled)

    @cached_property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Of every class, what was predicted and what is true."""
        return list(zip(self.prediction, self.truth, strict=True))


@dataclass(frozen=True)
class Metric:
    """A registered metric; called, it checks what every metric takes for granted.

    Attributes:
        name: in ``metrics=``, and of its columns ``<name>_<class>…,<name>``.
        unit: ``%`` or ``px``, for instance, which is ``mm`` :attr:`in_millimetres`; empty where the values have none.
        direction: which values are better.
        range: the smallest and the largest value; infinity where there is none.
        function: see :func:`register_metric`.
        of: what it is given.
        title: as in a sentence.
        needs: sets of classes of which the data must have one; any classes will do without.
    """

    name: str
    unit: str
    direction: Direction
    range: tuple[float, float]
    function: Callable[..., float]
    of: Kind = "masks"
    title: str = ""
    needs: tuple[tuple[str, ...], ...] = ()

    def __call__(self, prediction: Tensor, truth: Tensor, spacing: tuple[float, ...] = (1.0, 1.0)) -> Tensor:
        """The value of every mask, under the rule ``one``; of metrics of masks and surfaces.

        Args:
            prediction: bool ``[..., H, W]``, or ``[..., D, H, W]`` with a spacing of three numbers.
            truth: bool, of the same shape.
            spacing: of the pixels.

        Returns:
            float64 ``[...]``; NaN where the metric has no value.

        Raises:
            ValueError: masks that are not boolean or differ in shape, or a function that returns something else.
        """
        if prediction.dtype != torch.bool or truth.dtype != torch.bool:
            raise ValueError(f"masks must be bool, not {prediction.dtype} and {truth.dtype}")
        if prediction.shape != truth.shape:
            raise ValueError(f"shapes differ: {list(prediction.shape)} and {list(truth.shape)}")
        leading, space = truth.shape[: -len(spacing)], truth.shape[-len(spacing) :]
        masks = [mask.reshape(-1, *space) for mask in (prediction, truth)]
        values = self.score(Sample(masks[0], masks[1], [""] * len(masks[0]), spacing))
        return torch.tensor(values, dtype=torch.float64).reshape(leading)

    def score(self, sample: Sample, empty: EmptyRule = "one") -> list[float]:
        """The value of every class, or that of the image where the metric compares classes.

        Where neither the prediction nor the truth has a pixel of a class, the metric has its best value (``one``) or
        none (``skip``). Where one of them has none and the formula has no value, the metric has its worst one: that
        of a distance without an upper end is the diagonal of the image. What metrics of probabilities, and those
        without a direction, say of such a class is their own.

        Returns:
            One number per class; NaN where there is no value.

        Raises:
            ValueError: probabilities are needed and absent, or the function returns no number.
        """
        if self.of == "probabilities":
            if sample.probabilities is None:
                raise ValueError(f"{self.name} is of probabilities, which are not there")
            pairs = zip(sample.probabilities, sample.truth, strict=True)
            return [self._number(probability, truth) for probability, truth in pairs]
        if self.of == "classes":
            named = [dict(zip(sample.classes, each, strict=True)) for each in zip(*sample.pairs, strict=True)]
            return [self._settled(self._number(*named), sample.prediction, sample.truth, sample.spacing, empty)]
        more = (sample.spacing,) if self.of == "surfaces" else ()
        return [self._settled(self._number(*pair, *more), *pair, sample.spacing, empty) for pair in sample.pairs]

    def _number(self, *given: Any) -> float:
        value = self.function(*given)
        if not isinstance(value, float):
            raise ValueError(f"{self.name} returns {type(value).__name__} where a float is due")
        return value

    def _settled(
        self, value: float, prediction: Tensor, truth: Tensor, spacing: Sequence[float], empty: EmptyRule
    ) -> float:
        """The value after the rule for empty masks."""
        if self.direction == "none" or not (empty == "skip" or math.isnan(value)):
            return value
        both = not pixels(prediction) and not pixels(truth)
        if both and empty == "skip":
            return math.nan
        if not math.isnan(value):
            return value
        lowest, highest = self.range if self.direction == "lower" else self.range[::-1]
        if both:
            return float(lowest)
        if self.of == "surfaces" and math.isinf(highest):
            return math.hypot(*(side * length for side, length in zip(truth.shape, spacing, strict=True)))
        return float(highest) if math.isfinite(highest) else math.nan

    @property
    def per_class(self) -> bool:
        """Whether it has a value for every class, and not for the image alone."""
        return self.of != "classes"

    @property
    def from_predictions(self) -> bool:
        """Whether it can be taken from saved predictions, which are masks without probabilities."""
        return self.of != "probabilities"

    @property
    def in_millimetres(self) -> Metric:
        """The same, of masks whose spacing is in millimetres."""
        return replace(self, unit="mm") if self.unit == "px" else self

    @property
    def is_distance(self) -> bool:
        """Whether it is infinite where one of two masks is empty, and so counts as the diagonal."""
        return self.of == "surfaces" and math.isinf(self.range[1])

    @property
    def in_unit(self) -> str:
        """The title with the unit in a word, as in ``Dice in percent``."""
        return self.title + (f" in {'percent' if self.unit == '%' else self.unit}" if self.unit else "")

    @property
    def heading(self) -> str:
        """The same and which values are better, where not the higher ones are."""
        more = {"higher": "", "lower": " (lower is better)", "none": " (no value is better)"}
        return self.in_unit + more[self.direction]

    @property
    def digits(self) -> int:
        """Behind the point, as tables show it."""
        return 4 if self.range[1] <= 1 else 2

    def best(self, values: Iterable[float]) -> list[float]:
        """Different values, the best first; none where no value is better."""
        return [] if self.direction == "none" else sorted(set(values), reverse=self.direction == "higher")

    def lacks(self, classes: Iterable[str]) -> str | None:
        """Why it says nothing of these classes, as a sentence; None if it does."""
        if not self.needs or any({*needed} <= {*classes} for needed in self.needs):
            return None
        wanted = ", or ".join(" and ".join(needed) for needed in self.needs)
        return f"metrics={self.name} compares the classes {wanted}, which data.classes does not name: leave it out"


METRICS: Registry[Metric] = Registry("metric", "tta_bench.metrics")


def register_metric(
    name: str,
    unit: str,
    *,
    direction: Direction,
    range: tuple[float, float],
    of: Kind = "masks",
    title: str = "",
    needs: tuple[tuple[str, ...], ...] = (),
) -> Callable[[Callable[..., float]], Metric]:
    """Function decorator: make a metric available by name.

    The function is pure and returns a float, NaN where its formula has no value. It is given, by ``of``:

    * ``masks``: ``prediction`` and ``truth`` of one class, bool ``[H, W]`` or ``[D, H, W]``;
    * ``surfaces``: the same and ``spacing``, the side lengths of a pixel;
    * ``probabilities``: ``probability`` and ``truth`` of one class; computed while images are predicted alone;
    * ``classes``: ``prediction`` and ``truth`` as class name -> mask, for one value per image.

    Args:
        name: lower-case letters and digits.
        unit: of its values; of lengths ``px``.
        direction: which values are better.
        range: the smallest and the largest value.
        of: what the function is given.
        title: as in a sentence; the name in capitals if empty.
        needs: sets of classes of which the data must have one.

    Raises:
        ValueError: the name is taken or has other characters.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a metric's name has lower-case letters and digits alone, unlike '{name}'")

    def decorate(function: Callable[..., float]) -> Metric:
        metric = Metric(name, unit, direction, range, function, of, title or name.upper(), needs)
        return METRICS.register(name)(metric)

    return decorate
