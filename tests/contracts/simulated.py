"""An accelerator that is not there: fake tensors of a device of its own, and a count of what is asked of it.

Fake tensors have shapes, types and devices and no values. Mixing devices raises, and so does whatever needs to know
how many values there are that fulfil a condition (``nonzero``, Boolean indexing).
"""

import functools
import traceback
import weakref
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tta_bench.models.bank import Bank
from tta_bench.ops.draws import PrefetchedKeys

DEVICE = "sim"
VIEWS = frozenset(
    (
        *("view", "_unsafe_view", "expand", "t", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze"),
        *("split", "split_with_sizes", "detach", "alias", "as_strided", "unbind", "unfold", "view_as_real", "diagonal"),
        *("view_as_complex", "_conj", "_reshape_alias", "lift_fresh", "empty", "empty_like", "new_empty", "chunk"),
        *("empty_strided", "new_empty_strided"),
    )
)
"""Operations that launch no kernel."""
SENDER = "runtime/transfer.py"
"""The module by which everything goes to a device, on a GPU from pinned memory."""
ANSWERS = {torch.bool: True, torch.int64: 1}
"""What the device says when it is asked for a number, by type; of any other type a half."""


class DrawnKeys(PrefetchedKeys):
    """Keys of images for which everything long has been drawn, as on a GPU: without values, once for all of them."""

    def result(self, draw):
        return draw.joined([draw.of(self[0])] * len(self))


setup = functools.cache(_setup_privateuseone_for_python_backend)


class Count(TorchDispatchMode):
    """Counts kernels, waits of the host and copies to the device.

    Attributes:
        launches: operations on the device that are no views.
        bytes: what these read and write, if nothing stays in a cache.
        waits: line of the package -> how often it makes the host wait: a value or a tensor comes back, or one is sent
            by a copy that the host waits for.
        copies: line of the package -> how many tensors it sends to the device.
        by_operation: launches by operation.
    """

    def __init__(self):
        super().__init__()
        self.launches = self.bytes = 0
        self.waits, self.copies, self.by_operation = Counter(), Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        if name == "_local_scalar_dense":
            if is_on_device(args[0]):
                self.waits[caller()] += 1
            return ANSWERS.get(args[0].dtype, 0.5)
        out = func(*args, **(kwargs or {}))
        sources, results = (
            [each for each in tree_leaves(tree) if isinstance(each, torch.Tensor)] for tree in ((args, kwargs), out)
        )
        for each in results:
            each.constant = None  # of a tensor made from a few numbers, which would be sent to the device for real
        if "copy" in name and {each.device.type for each in sources + results} == {"cpu", DEVICE}:
            to_device, more = is_on_device(results[0]), kwargs or {}
            if to_device:
                self.copies[caller()] += 1
            goes_on = more.get("non_blocking", args[2:3] == (True,))
            if not (goes_on and (to_device or f"-> {SENDER}" in caller())):  # who fetches knows when it is there
                self.waits[caller()] += 1
        elif func.namespace == "aten" and name not in VIEWS and any(map(is_on_device, sources + results)):
            self.launches += 1
            self.bytes += sum(each.numel() * each.element_size() for each in sources + results)
            self.by_operation[name] += 1
        return out


class Memory(Count):
    """Knows too how many bytes of the device are taken, and the most there were within."""

    def __init__(self):
        super().__init__()
        self.present = self.peak = 0
        self._seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor) and is_on_device(each):
                self._take(each.untyped_storage())
        self.peak = max(self.peak, self.present)
        return out

    def _take(self, storage):
        if storage not in self._seen:
            self._seen.add(storage)
            self.present += storage.nbytes()
            weakref.finalize(storage, self._give_back, storage.nbytes())

    def _give_back(self, count):
        self.present -= count


def bytes_taken(work, device=None):
    """As the function of this name measures it on a GPU, of what ``work`` makes on the simulated device."""
    with Memory() as memory:
        work()
    return memory.peak


def is_on_device(tensor):
    """Whether a tensor lives on the simulated device."""
    return tensor.device.type == DEVICE


def caller():
    """The innermost line of the package that is being run; before what sends to a device, who sends."""
    frames = [frame for frame in traceback.extract_stack() if "/tta_bench/" in frame.filename]
    lines = [f"{frame.filename.split('/tta_bench/')[-1]}: {frame.line}" for frame in frames[-2:]]
    return " -> ".join(lines if lines[-1:] and lines[-1].startswith(SENDER) else lines[-1:]) or "the test"


def placed(module):
    """The module, with fake tensors on the device in the place of its parameters and buffers."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(fake(*value.shape, dtype=value.dtype), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = fake(*value.shape, dtype=value.dtype)
        if isinstance(bank := vars(part).get("bank"), Bank):
            tensors = {name: getattr(bank, name) for name in ("amplitudes", "thumbnails")}
            # A bank waits on the host, until a method takes what it needs.
            part.bank = replace(bank, **{n: torch.empty(t.shape) for n, t in tensors.items() if t is not None})
    return module


def fake(*shape, dtype=torch.float32):
    """A tensor on the device, under :func:`simulation`."""
    return torch.empty(shape, dtype=dtype, device=DEVICE)


@contextmanager
def simulation():
    """Every tensor that is made within is a fake one."""
    setup(DEVICE)
    with FakeTensorMode(), patch.object(FakeTensor, "tolist", _tolist):
        yield


def _tolist(tensor):
    """All values at once, as of a real tensor, and not one by one."""
    if is_on_device(tensor):
        tensor = tensor.cpu()

    def nested(shape):
        return [nested(shape[1:]) for _ in range(shape[0])] if shape else ANSWERS.get(tensor.dtype, 0.5)

    return nested(tensor.shape)


def record(recording, work, theta, inputs, queue, pool):
    """As a recording is made on a GPU; to play it costs nothing here, and gives nothing."""
    recording.inputs = [each.clone() for each in (theta.detach(), *inputs)]
    made, recording.forwards = work(recording.inputs[0].requires_grad_(theta.requires_grad), *recording.inputs[1:])
    recording.made, recording.is_followed = [each.detach() for each in made], [each.requires_grad for each in made]
    recording.slopes = [torch.empty_like(each) for each in made if each.requires_grad]
    recording.gradient = torch.empty_like(theta)
    recording.inputs[0] = recording.inputs[0].detach()
    recording.forth = recording.back = SimpleNamespace(replay=lambda: None, pool=lambda: None)
    recording.is_made = True
