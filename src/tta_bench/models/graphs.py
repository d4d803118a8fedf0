"""Work of a network as CUDA graphs: a thousand kernels that a GPU is given at once, not one after the other.

The host needs longer to submit a pass than a GPU needs to compute it. A pass that comes back, with the loss behind it,
is therefore recorded, forwards and backwards, and played again from then on, by the same kernels and so to the same
numbers.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tta_bench.runtime.memory import release_memory
from tta_bench.runtime.numerics import is_gpu

if TYPE_CHECKING:
    from tta_bench.models.adaptable import AdaptableNetwork
    from tta_bench.models.normalisation import Statistics

log = logging.getLogger(__name__)

Made = tuple[tuple[Tensor, ...], int]
"""Tensors, and how many forward passes they took, per stream."""

Work = Callable[..., Made]
"""``work(theta, *inputs)``: rows of theta and further tensors to what is made of them."""

STALE = 200
"""Calls after which a recording that none of them played is given up: it keeps what it makes, and streams that have
ended leave others behind."""


class Graphs:
    """The recorded work of one network on one GPU.

    All recordings share one memory, as they would if they were computed: none is played before the gradient of the
    one before has been asked for, or cannot be any more.
    """

    def __init__(self) -> None:
        self._seen: dict[Hashable, _Recording] = {}
        self._calls = 0
        self._is_within = False
        self._user: weakref.ref[_Use] | None = None
        self._queue: torch.cuda.Stream | None = None

    def __deepcopy__(self, memo: Any) -> Graphs:
        """A copy of the network records its own."""
        return Graphs()

    def __reduce__(self) -> tuple[type[Graphs], tuple[()]]:
        return Graphs, ()

    def forget(self) -> None:
        """Give the memory of all recordings back."""
        self._seen.clear()

    def __call__(self, key: Hashable, work: Work, theta: Tensor, *inputs: Tensor) -> Made:
        """``work(theta, *inputs)``, which depends on nothing else that changes, with the gradient to ``theta``.

        Work of a kind is computed as it is the first time, and recorded the second. It is computed as it is, too,
        where there is no memory to record it, where it asks the device for a number on the way, while the gradient of
        what was played before may still be asked for, and as a part of other work.

        Args:
            key: what else the work depends on.
            work: what is computed.
            theta: ``[S, scalars]``.
            inputs: without a gradient.
        """
        if self._is_within:
            return work(theta, *inputs)
        with_gradient = torch.is_grad_enabled() and theta.requires_grad
        shapes = tuple((each.shape, each.dtype, each.stride()) for each in inputs)
        key = key, shapes, theta.shape, with_gradient
        self._calls += 1
        if self._calls % STALE == 0:
            self._seen = {k: each for k, each in self._seen.items() if each.used > self._calls - STALE}
        is_first = key not in self._seen
        recording = self._seen.setdefault(key, _Recording())
        recording.used = self._calls
        if is_first:
            return self._as_one(work)(theta, *inputs)
        if recording.fault or self._is_in_use:
            return work(theta, *inputs)
        if not recording.is_made:
            recording.fault = self._try_to_make(recording, work, theta.detach().requires_grad_(with_gradient), inputs)
            if recording.fault:  # the exception, which holds what was in memory, is gone here
                log.info("a pass is not recorded as a CUDA graph: %s", recording.fault)
                release_memory(theta.device)
                return work(theta, *inputs)
        return _Replay.apply(self, recording, theta, *inputs), recording.forwards

    @property
    def _is_in_use(self) -> bool:
        """Whether a gradient of the last replay may still be asked for."""
        return self._user is not None and self._user() is not None

    def lend(self) -> _Use:
        """The memory to one replay, until its gradient has been asked for or cannot be any more."""
        use = _Use()
        self._user = weakref.ref(use)
        return use

    def _try_to_make(self, recording: _Recording, work: Work, theta: Tensor, inputs: tuple[Tensor, ...]) -> str:
        """Record; what went wrong, or nothing."""
        if self._queue is None and is_gpu(theta.device):
            self._queue = torch.cuda.Stream(theta.device)  # memory is shared on one queue
        pool = next((each.forth.pool() for each in self._seen.values() if each.is_made), None)
        try:
            recording.make(self._as_one(work), theta, inputs, self._queue, pool)
        except (RuntimeError, ValueError) as error:
            recording.unmake()
            return str(error).partition("\n")[0] or type(error).__name__
        return ""

    def _as_one(self, work: Work) -> Work:
        """The work, within which nothing is a recording of its own."""

        def alone(*arguments: Tensor) -> Made:
            self._is_within = True
            try:
                return work(*arguments)
            finally:
                self._is_within = False

        return alone


def replayable(
    network: AdaptableNetwork,
    key: Hashable,
    compute: Callable[..., tuple[Tensor, ...]],
    statistics: Statistics,
    theta: Tensor,
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    """``compute(theta, *inputs)``, as a recording where a network has these and they are of its kind.

    Args:
        network: which ``compute`` passes, and which counts that it does.
        key: what else it depends on; what has no hash, as a list, is not recorded as a whole.
        compute: passes, and what is made of them; draws nothing, sends nothing to the device and asks it for nothing.
        statistics: the policy of the passes.
        theta: ``[S, scalars]``; rows of all parameters are not recorded.
        inputs: further tensors.
    """
    settings, of_affine = statistics.settings(), theta.shape[1] == network.source_theta.numel()
    if network.graphs is None or settings is None or not of_affine or any(each.requires_grad for each in inputs):
        return compute(theta, *inputs)
    try:
        hash(key)
    except TypeError:
        return compute(theta, *inputs)
    before = network.forwards

    def counted(theta: Tensor, *inputs: Tensor) -> Made:
        passed = network.forwards
        made = compute(theta, *inputs)
        return made, network.forwards - passed

    made, forwards = network.graphs((key, type(statistics), settings), counted, theta, *inputs)
    network.forwards = before + forwards
    return made


class _Recording:
    """Two CUDA graphs of one piece of work, and the tensors in which they find their arguments and leave results."""

    is_made = False
    fault = ""
    """Why there is none."""
    used = 0
    """Number of the last call of its kind."""

    def unmake(self) -> None:
        """Keep nothing."""
        used = self.used
        self.__dict__.clear()
        self.used = used

    def make(self, work: Work, theta: Tensor, inputs: tuple[Tensor, ...], queue: Any, pool: Any) -> None:
        """Record: once to wake up the libraries on a queue of its own, once for the graph.

        Args:
            work: what is recorded.
            theta: requires a gradient if one is recorded.
            inputs: as for the work.
            queue: to record on.
            pool: whose memory is used again; None for one of its own.
        """
        self.inputs = [each.clone() for each in (theta.detach(), *inputs)]
        theta = self.inputs[0].detach().requires_grad_(theta.requires_grad)
        present = torch.cuda.current_stream(theta.device)
        queue.wait_stream(present)
        with torch.cuda.stream(queue):
            made, _ = work(theta, *self.inputs[1:])
            if theta.requires_grad:
                followed = [each for each in made if each.requires_grad]
                torch.autograd.grad(followed, theta, [torch.zeros_like(each) for each in followed])
                del followed
            del made
        present.wait_stream(queue)
        # Other threads, which fetch predictions or read images, may go on with their work.
        how: Any = {"stream": queue, "capture_error_mode": "thread_local"}
        self.forth = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forth, pool=pool, **how):
            made, self.forwards = work(theta, *self.inputs[1:])
        self.made = [each.detach() for each in made]
        self.is_followed = [each.requires_grad for each in made]
        if theta.requires_grad:
            followed = [each for each in made if each.requires_grad]
            self.slopes = [torch.zeros_like(each) for each in followed]
            self.back = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.back, pool=self.forth.pool(), **how):
                (self.gradient,) = torch.autograd.grad(followed, theta, self.slopes)
        self.is_made = True


class _Use:
    """Lives as long as the gradient of a replay can be asked for."""


class _Replay(torch.autograd.Function):
    """Recorded work on other arguments; what it makes is copied, because the next replay writes to the same place."""

    @staticmethod
    def forward(ctx: Any, graphs: Graphs, recording: _Recording, theta: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        for place, given in zip(recording.inputs, (theta, *inputs), strict=True):
            place.copy_(given)
        recording.forth.replay()
        if theta.requires_grad:
            ctx.recording, ctx.use = recording, graphs.lend()
        made = tuple(each.clone() for each in recording.made)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*_parted(made, recording.is_followed)[1])
        return made

    @staticmethod
    @once_differentiable  # the recorded gradient has none of its own
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.use is None:
            raise RuntimeError(
                "the gradient of a recorded pass is asked for a second time, and what it was made of is overwritten: "
                "ask for all at once, pass again, or switch recordings off with runtime.graphs=false"
            )
        recording = ctx.recording
        for place, slope in zip(recording.slopes, _parted(slopes, recording.is_followed)[0], strict=True):
            place.zero_() if slope is None else place.copy_(slope)
        recording.back.replay()
        ctx.use = None
        return None, None, recording.gradient.clone(), *(None for _ in recording.inputs[1:])


def _parted(each_made: Sequence[Any], is_followed: Sequence[bool]) -> tuple[list[Any], list[Any]]:
    """Those of what was made that have a gradient, and the others."""
    parts: tuple[list[Any], list[Any]] = [], []
    for each, followed in zip(each_made, is_followed, strict=True):
        parts[not followed].append(each)
    return parts
