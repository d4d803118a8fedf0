"""Passes through a network as CUDA graphs: a thousand kernels that a GPU is given at once, not one after the other.

The host needs longer to submit a pass than a GPU needs to compute it. A pass that comes back is therefore recorded,
forwards and backwards, and played again from then on, by the same kernels and so to the same numbers.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from tta_bench.runtime.memory import release_memory

log = logging.getLogger(__name__)

Pass = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Images and rows of theta to what a network makes of them."""

STALE = 100
"""Passes after which a recording that none of them played is given up: it keeps the activations of its pass, and
streams that have ended leave others behind."""


class Graphs:
    """The recorded passes of one network on one GPU."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, _Recording] = {}
        self._passes = 0

    def __deepcopy__(self, memo: Any) -> Graphs:
        """A copy of the network records its own."""
        return Graphs()

    def __reduce__(self) -> tuple[type[Graphs], tuple[()]]:
        return Graphs, ()

    def forget(self) -> None:
        """Give the memory of all recordings back."""
        self._seen.clear()

    def __call__(self, key: Hashable, compute: Pass, images: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        """``compute(images, theta)``, which depends on nothing else that changes, with the gradient to ``theta``.

        The first pass of a kind is computed as it is, the second recorded. It is computed as it is, too, where
        there is no memory to record it, where the network asks the device for a number on the way, and while the
        gradient of an earlier one of its kind may still be asked for, whose activations would be overwritten.

        Args:
            key: what else the pass depends on.
            compute: the pass.
            images: without a gradient.
            theta: ``[S, scalars]``.
        """
        with_gradient = torch.is_grad_enabled() and theta.requires_grad
        key = key, images.shape, images.dtype, images.stride(), theta.shape, with_gradient
        self._passes += 1
        if self._passes % STALE == 0:
            self._seen = {k: each for k, each in self._seen.items() if each.used > self._passes - STALE}
        is_first = key not in self._seen
        recording = self._seen.setdefault(key, _Recording())
        recording.used = self._passes
        if is_first or recording.fault or recording.is_in_use:
            return compute(images, theta)
        if not recording.is_made:
            recording.fault = recording.try_to_make(compute, images, theta.detach().requires_grad_(with_gradient))
            if recording.fault:  # the exception, which holds what was in memory, is gone here
                log.info("a pass is not recorded as a CUDA graph: %s", recording.fault)
                release_memory(images.device)
                return compute(images, theta)
        return _Replay.apply(recording, images, theta)


class _Recording:
    """Two CUDA graphs of one pass, and the tensors in which they find their arguments and leave their results."""

    is_made = False
    fault = ""
    """Why there is none."""
    used = 0
    """Number of the last pass of its kind."""

    _user: weakref.ref[_Use] | None = None

    @property
    def is_in_use(self) -> bool:
        """Whether a gradient of the last replay may still be asked for."""
        return self._user is not None and self._user() is not None

    def try_to_make(self, compute: Pass, images: Tensor, theta: Tensor) -> str:
        """As :meth:`make`; what went wrong, or nothing."""
        try:
            self.make(compute, images, theta)
        except (RuntimeError, ValueError) as error:
            self.__dict__.clear()
            return str(error).partition("\n")[0] or type(error).__name__
        return ""

    def make(self, compute: Pass, images: Tensor, theta: Tensor) -> None:
        """Record a pass: once to wake up the libraries on a queue of its own, once for the graph."""
        self.images, self.theta = images.clone(), theta.detach().clone().requires_grad_(theta.requires_grad)
        queue = torch.cuda.Stream(images.device)
        queue.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(queue):
            made = compute(self.images, self.theta)
            if theta.requires_grad:
                torch.autograd.grad(made, self.theta, [torch.zeros_like(each) for each in made])
            del made
        torch.cuda.current_stream(images.device).wait_stream(queue)
        # Other threads, which fetch predictions or read images, may go on with their work.
        how: Any = {"stream": queue, "capture_error_mode": "thread_local"}
        self.forwards = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forwards, **how):
            made = compute(self.images, self.theta)
        self.made = tuple(each.detach() for each in made)
        if theta.requires_grad:
            self.slopes = [torch.zeros_like(each) for each in made]
            self.backwards = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.backwards, pool=self.forwards.pool(), **how):
                (self.gradient,) = torch.autograd.grad(made, self.theta, self.slopes)
        self.is_made = True

    def lend(self) -> _Use:
        """To one replay, until its gradient has been asked for or cannot be any more."""
        use = _Use()
        self._user = weakref.ref(use)
        return use


class _Use:
    """Lives as long as the gradient of a replay can be asked for."""


class _Replay(torch.autograd.Function):
    """A recorded pass on other arguments; what it makes is copied, because the next replay writes to the same place."""

    @staticmethod
    def forward(ctx: Any, recording: _Recording, images: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        recording.images.copy_(images)
        recording.theta.detach().copy_(theta)
        recording.forwards.replay()
        if theta.requires_grad:
            ctx.recording, ctx.use = recording, recording.lend()
        return tuple(each.clone() for each in recording.made)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, None, Tensor]:
        recording = ctx.recording
        for place, slope in zip(recording.slopes, slopes, strict=True):
            place.copy_(slope)
        recording.backwards.replay()
        ctx.use = None
        return None, None, recording.gradient.clone()
