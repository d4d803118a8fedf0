"""Random draws for the images to come, made by threads while a device works on those before."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from tta_bench.ops.draws import Draw, ImageKey, PrefetchedKeys, drawing_threads
from tta_bench.runtime.transfer import pinned


class Prefetcher:
    """Draws for images to come what was asked for at those before; leave it as a context to end its threads.

    What is drawn depends on nothing but the draw and the image's key, so that it does not matter when and where it is
    made, nor whether it is asked for at all.
    """

    def __init__(self) -> None:
        self._pool = drawing_threads()
        self._asked: list[Draw] = []
        self._before: list[Draw] = []
        self._by: Prefetched | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, keys: Sequence[ImageKey]) -> Prefetched:
        """Start to draw for the images with these keys, one of each stream."""
        # The images before may be in the middle of their asking: what those before them asked for is complete.
        expected = [*self._before, *(draw for draw in self._asked if draw not in self._before)]
        return Prefetched(self, keys, expected)

    def note(self, by: Prefetched, draw: Draw) -> None:
        """Remember what was asked for."""
        if by is not self._by:
            self._by, self._before, self._asked = by, self._asked, []
        if draw not in self._asked:
            self._asked.append(draw)

    def submitted(self, draw: Draw, keys: Sequence[ImageKey]) -> list[Future[Any]]:
        """A draw for every key, on its way."""
        return [self._pool.submit(draw.of, key) for key in keys]


class Prefetched(PrefetchedKeys):
    """The keys of some images, for which threads draw.

    Args:
        prefetcher: whose threads.
        keys: of the images.
        expected: what will probably be asked for.

    Attributes:
        unexpected: how many draws were not expected.
    """

    def __init__(self, prefetcher: Prefetcher, keys: Sequence[ImageKey], expected: Sequence[Draw]) -> None:
        super().__init__(keys)
        self.unexpected = 0
        self._prefetcher = prefetcher
        self._coming = [(draw, prefetcher.submitted(draw, keys)) for draw in expected]
        self._made: list[tuple[Draw, Any]] = []

    def settle(self) -> None:
        """Wait for what is expected, and make it ready for a GPU."""
        self._made += [(draw, _joined(draw, coming)) for draw, coming in self._coming]
        self._coming = []

    def result(self, draw: Draw) -> Any:
        """See the base class; the same however often it is asked for."""
        self._prefetcher.note(self, draw)
        for made, result in self._made:
            if made == draw:
                return result
        self.unexpected += 1
        result = _joined(draw, self._prefetcher.submitted(draw, self))
        self._made.append((draw, result))
        return result


def _joined(draw: Draw, coming: Sequence[Future[Any]]) -> Any:
    return _pinned(draw.joined([each.result() for each in coming]))


def _pinned(result: Any) -> Any:
    """The same with all tensors in pinned memory."""
    if isinstance(result, Tensor):
        return pinned(result)
    return type(result)(map(_pinned, result)) if isinstance(result, tuple | list) else result
