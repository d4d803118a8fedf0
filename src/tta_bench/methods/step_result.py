"""What a step of a method leaves: logits, and numbers for which the device is not waited for until somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tta_bench.runtime.numerics import HOST
from tta_bench.runtime.transfer import fetched


class Told(NamedTuple):
    """The numbers of a :class:`StepResult`."""

    diagnostics: dict[str, list[float]]
    seconds: float
    skipped: tuple[int, ...]


class StepResult:
    """What happened at one image of each of ``A`` streams; who asks for its numbers waits until the device has them.

    Args:
        logits: ``[A, classes, H, W]``; of batches ``[A, batch, classes, H, W]``.
        fetch: waits, in whichever thread, and returns the numbers.
    """

    def __init__(self, logits: Tensor, fetch: Callable[[], Told]) -> None:
        self.logits = logits
        self.fetch = cache(fetch)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled with its numbers."""
        return _known, (self.logits, self.fetch())

    @property
    def diagnostics(self) -> dict[str, list[float]]:
        """Name -> one value per stream; of the last update."""
        return self.fetch().diagnostics

    @property
    def seconds(self) -> float:
        """Time that the step took, per image: of a GPU its own, from the first of its work to the last."""
        return self.fetch().seconds

    @property
    def skipped(self) -> tuple[int, ...]:
        """How many updates of each stream were none; empty of a method that makes none."""
        return self.fetch().skipped


def _known(logits: Tensor, told: Told) -> StepResult:
    return StepResult(logits, lambda: told)


def told(
    diagnostics: Mapping[str, Tensor], skipped: Sequence[Tensor], seconds: Callable[[], float], images: int
) -> Callable[[], Told]:
    """Begin to fetch the numbers of a step; the function waits for them.

    Args:
        diagnostics: name -> ``[A]`` values of the last update.
        skipped: of each update, whether it was none, bool ``[A]``.
        seconds: waits for the end of the step, and says how long it took.
        images: of the step, over which its time is shared out.
    """
    rows = _on_host([*diagnostics.values(), *skipped])

    def numbers() -> Told:
        found = rows()
        of_streams = tuple(int(sum(updates)) for updates in zip(*found[len(diagnostics) :], strict=True))
        return Told(dict(zip(diagnostics, found, strict=False)), seconds() / images, of_streams)

    return numbers


def _on_host(values: Sequence[Tensor]) -> Callable[[], list[list[float]]]:
    """Begin to fetch values ``[A]`` of any types, those of a device in one transfer; wait for them as numbers.

    They are those of now, whatever is written to the tensors, such as a view of a method's state, before it is asked.
    """
    on_device = [each for each in values if each.device != HOST]
    fetch = fetched(torch.stack(on_device).double()) if on_device else None
    here = [each.double().tolist() if each.device == HOST else None for each in values]

    def numbers() -> list[list[float]]:
        transferred = iter(fetch().tolist() if fetch else [])
        return [next(transferred) if each is None else each for each in here]

    return numbers
