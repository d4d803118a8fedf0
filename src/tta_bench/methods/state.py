"""What streams keep from image to image, saved by torch's own ``state_dict``; the adapted parameters among it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tta_bench.methods.optimizers import Optimizer
from tta_bench.runtime.transfer import sent

FIRST_TABLE = 64
"""Steps that the first table of corrections is made for; every further one is twice as long."""


class State(nn.Module):
    """A module whose attributes are state: what is assigned is what ``state_dict`` saves, without being declared.

    Tensors become buffers, which may change their shape; modules and parameters are torch's. Plain values, lists,
    tuples and dictionaries of them or of tensors, and what has a ``state_dict`` of its own, such as an optimiser, are
    saved as extra state.

    Args:
        values: the first attributes.

    Raises:
        TypeError: at the assignment of anything else.
    """

    transient: ClassVar[frozenset[str]] = frozenset()
    """Names of attributes that are no state: constants, and what the next image does not depend on.

    A class lists its own; those of its bases are added.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.transient = cls.transient.union(*(getattr(base, "transient", ()) for base in cls.__bases__))

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Of any type, as in a class that is no module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.transient or name in _OF_MODULES:
            object.__setattr__(self, name, value)
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.__dict__.pop(name, None)
            self._buffers[name] = value
        elif isinstance(value, nn.Module | nn.Parameter) or _has_state(value) or _is_plain(value):
            self._buffers.pop(name, None)
            super().__setattr__(name, value)
        else:
            raise TypeError(
                f"{type(self).__name__}.{name} is a {type(value).__name__}, which cannot be saved: hold tensors, plain "
                "values or modules, or name it in transient if it is no state"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """All state that is no tensor, by name."""
        kept = {name: vars(self)[name] for name in sorted(vars(self).keys() - _OF_MODULES - self.transient)}
        return {name: value.state_dict() if _has_state(value) else value for name, value in kept.items()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`get_extra_state`, which is left unchanged."""
        for name, value in copy.deepcopy(dict(state)).items():
            present: Any = vars(self).get(name)
            if _has_state(present):
                present.load_state_dict(value)
            else:
                setattr(self, name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Buffers are what the saved ones were: others are gone, and shapes may differ."""
        before = dict(self._buffers)
        self._buffers.clear()
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            if (
                key.startswith(prefix)
                and "." not in name
                and isinstance(value, Tensor)
                and name not in self._parameters
            ):
                old = before.get(name)
                setattr(self, name, value.clone() if old is None else value.to(old.device, copy=True))
        super()._load_from_state_dict(state_dict, prefix, *others)


_OF_MODULES = vars(nn.Module()).keys()
"""What torch keeps of every module."""


def _has_state(value: Any) -> bool:
    """Whether a value that is no module saves itself."""
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _is_plain(value: Any) -> bool:
    """Whether ``torch.load`` reads a value with ``weights_only=True``, as what it was: a named tuple is none."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value, *value.values())))
    return value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str)


class AdaptedParameters(State):
    """The adapted parameters of all streams, one row each, and an optimiser whose state every row has of its own.

    Args:
        source: ``[scalars]``, where every row starts.
        streams: number of rows.
        optimizer: from :func:`~tta_bench.methods.optimizers.make_optimizer`.

    Attributes:
        theta: ``[streams, scalars]``.
        moments: of the optimiser, ``[moments, streams, scalars]``; zeros before the first step.
        steps: ``[streams]``, how many each row has made.
    """

    transient = frozenset({"optimizer", "_corrections", "_latest"})

    def __init__(self, source: Tensor, streams: int, optimizer: Optimizer) -> None:
        super().__init__()
        self.theta = source.detach().repeat(streams, 1)
        self.optimizer = optimizer
        self.moments = self.theta.new_zeros(optimizer.moments, *self.theta.shape)
        self.steps = torch.zeros(streams, dtype=torch.long, device=self.theta.device)
        self._calls = 0
        self._corrections = torch.empty(optimizer.moments, 0)

    @torch.no_grad()
    def step(self, gradient: Tensor, learning_rate: Tensor, losses: Tensor) -> Tensor:
        """Update the first rows, those of the active streams; the device is not waited for.

        A row that is skipped stays as it is, its moments and its step counter included.

        Args:
            gradient: ``[A, scalars]``.
            learning_rate: ``[A]``.
            losses: ``[A]``; a row whose loss, gradient or learning rate is not finite is skipped.

        Returns:
            Bool ``[A]``: which rows were skipped.
        """
        largest = torch.linalg.vector_norm(gradient, torch.inf, dim=1)  # NaN, if there is one
        finite = torch.stack([largest, losses, learning_rate]).isfinite().all(dim=0)
        count, kept = len(gradient), finite[:, None]
        theta, moments, steps = self.theta[:count], self.moments[:, :count], self.steps[:count]
        corrections = self._table()[:, steps, None]
        stepped, moved = self.optimizer(
            theta, gradient, learning_rate.double()[:, None], moments, corrections, (steps == 0)[:, None]
        )
        for present, after in ((theta, stepped), *zip(moments, moved, strict=True)):
            torch.where(kept, after, present, out=present)
        steps += finite
        self._latest = gradient, kept
        return ~finite

    def _table(self) -> Tensor:
        """The optimiser's corrections ``[moments, steps]``, long enough for a row that was never skipped."""
        self._calls += 1
        if self._calls > self._corrections.shape[1]:
            self._corrections = sent(self.optimizer.corrections(max(FIRST_TABLE, 2 * self._calls)), self.theta.device)
        return self._corrections

    def followed_gradient(self, streams: int) -> Tensor:
        """The gradients of the last :meth:`step` of the first streams, ``[A, scalars]``; NaN where it was skipped."""
        gradient, kept = self._latest
        return torch.where(kept, gradient, torch.nan)[:streams]

    @torch.no_grad()
    def reset(self, is_reset: Tensor, source: Tensor) -> None:
        """Put the first streams back to where they started, moments included, where Bool ``[A]`` says so."""
        count, rows = len(is_reset), is_reset[:, None]
        self.theta[:count] = torch.where(rows, source, self.theta[:count])
        self.moments[:, :count].masked_fill_(rows, 0)
        self.steps[:count].masked_fill_(is_reset, 0)
