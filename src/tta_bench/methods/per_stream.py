"""Options that streams side by side have each of their own: how cells that differ in them share a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tta_bench.methods.card import Card
    from tta_bench.models.adaptable import AdaptableNetwork


class _OfSeveral:
    """Options of several streams, without those that differ: to read one of them would give all streams that of one."""

    _options: Any = None  # while a copy is made, which has nothing yet
    _differing: Sequence[str] = ()

    def __init__(self, method: str, options: Any, differing: Sequence[str]) -> None:
        self._method, self._options, self._differing = method, options, differing

    def __getattr__(self, name: str) -> Any:
        if name in self._differing:
            raise RuntimeError(
                f"{self._method} reads options.{name}, which every stream has of its own: read it by self.each, "
                "self.option or self.choice, or leave it out of card.per_stream"
            )
        return getattr(self._options, name)


class PerStream:
    """The options of a method, of which streams may have those of their own that its card names as ``per_stream``.

    A method reads these by :meth:`option`, :meth:`each` and :meth:`choice`, all others from ``options``.
    """

    card: ClassVar[Card]
    network: AdaptableNetwork
    options: Any
    transient: ClassVar[frozenset[str]] = frozenset({"_numbers", "_choices"})
    _numbers: Mapping[str, Tensor] = MappingProxyType({})
    _choices: Mapping[str, tuple[list[str], Tensor]] = MappingProxyType({})

    def share(self, options: Sequence[Any]) -> None:
        """Give every stream its options, from the next :meth:`start` on.

        Args:
            options: of each stream, in the order of :meth:`start`; they differ in what the card names alone.
        """
        device = self.network.source_theta.device
        numbers, choices = {}, {}
        for name in self.card.per_stream:
            values = [getattr(each, name) for each in options]
            distinct = list(dict.fromkeys(values))
            if len(distinct) > 1 and isinstance(values[0], str):
                choices[name] = distinct, torch.tensor([distinct.index(value) for value in values]).to(device)
            elif len(distinct) > 1:
                numbers[name] = torch.tensor(values, dtype=torch.float64).to(device)
        self._numbers, self._choices = numbers, choices
        self.options = _OfSeveral(type(self).__name__, options[0], [*numbers, *choices])

    def option(self, name: str, like: Tensor) -> Any:
        """A number, or where streams differ one for each, ``[A, 1, ...]`` with the dimensions of ``like [A, ...]``."""
        own = self._numbers.get(name)
        if own is None:
            return getattr(self.options, name)
        return own[: len(like)].to(like.dtype).view(-1, *[1] * (like.ndim - 1))

    def each(self, name: str, like: Tensor) -> Tensor:
        """The numbers of all streams, ``[A]``, of the type of ``like [A]``."""
        value = self.option(name, like)
        return value if isinstance(value, Tensor) else torch.full_like(like, value)

    def choice(self, name: str, functions: Mapping[str, Callable[[Tensor], Tensor]], values: Tensor) -> Tensor:
        """``values [A]`` by the function that an option names, each stream's by its own."""
        if name not in self._choices:
            return functions[getattr(self.options, name)](values)
        distinct, chosen = self._choices[name]
        return torch.stack([functions[each](values) for each in distinct]).gather(0, chosen[None, : len(values)])[0]
