"""Methods as published, step by step: what ``adapt_speed.py`` compares with. Shares no adaptation code with tta_bench.

One image at a time, every view a forward of its own, NumPy and SciPy augmentation with the ranges of batchgenerators,
torch's own ``BatchNorm2d`` and optimisers. Where the published code leaves room the choice is the faster one: no
gradient of a frozen parameter is computed; the network has no branches that a method does not use; pseudo-labels and
predictions run under ``no_grad``. Nothing is tuned beyond torch's defaults; hyper-parameters are those of ``conf/``.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plain_augmentation import Image, strong_augmentation
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.segmentation import SegmentationModel

WEAK_VIEWS: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], ...] = (
    (lambda x: x, lambda x: x),
    (lambda x: x.flip(3), lambda x: x.flip(3)),
    (lambda x: x.flip(2), lambda x: x.flip(2)),
    (lambda x: x.rot90(1, (2, 3)), lambda x: x.rot90(-1, (2, 3))),
    (lambda x: x.rot90(2, (2, 3)), lambda x: x.rot90(-2, (2, 3))),
    (lambda x: x.rot90(3, (2, 3)), lambda x: x.rot90(-3, (2, 3))),
)
"""Each view with its inverse."""


class PlainResUNet(ResUNet):
    """The network with its transposed convolutions called as such, as in the published code."""

    def decode(self, features: list[Tensor]) -> Tensor:
        """Input of the classifier, ``[1, 32, H, W]``."""
        half, quarter, eighth, sixteenth, x = features
        blocks = ((self.up1, sixteenth), (self.up2, eighth), (self.up3, quarter), (self.up4, half))
        for block, skip in blocks:
            x = block.bn(F.relu(torch.cat([block.tr_conv(x), block.x_conv(skip)], dim=1)))
        return F.relu(self.bnout(self.up5(x)))


class PlainLoop:
    """What the loops share: BatchNorm layers take their statistics from each image, their affine scalars adapt.

    Args:
        model: the source model, on its device; it is changed.
        learning_rate: of the optimiser; default :attr:`rate`.

    Attributes:
        forwards: of the network since construction.
        backwards: likewise.
    """

    branches: tuple[str, ...] = ()
    """Auxiliary branches that the model must have."""

    rate = 1e-4

    def __init__(self, model: SegmentationModel, learning_rate: float | None = None) -> None:
        self.model = model
        self.learning_rate = self.rate if learning_rate is None else learning_rate
        self.forwards = self.backwards = 0
        self.prepare()

    def prepare(self) -> None:
        """Set statistics, what is adapted, and the optimiser."""
        self.parameters = with_statistics_of_the_image(self.model)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.parameters, lr=self.learning_rate)

    @abstractmethod
    def update(self, x: Tensor) -> None:
        """Adapt to ``[1, 3, H, W]`` in [0, 1]."""

    def step(self, image: Image) -> Tensor:
        """Adapt to one image ``[3, H, W]`` in [0, 1] and return its logits ``[1, classes, H, W]``."""
        x = self.to_device(image)
        self.update(x)
        with torch.no_grad():
            return self.predict(x)

    def predict(self, x: Tensor) -> Tensor:
        """Logits of the clean image."""
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, counted."""
        self.forwards += 1
        return self.model(x)

    def gradient(self, loss: Tensor) -> list[Tensor]:
        """A copy of the gradient, which also stays in place for the optimiser."""
        self.optimizer.zero_grad()
        loss.backward()
        self.backwards += 1
        return [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser."""
        self.optimizer.zero_grad()
        loss.backward()
        self.backwards += 1
        self.optimizer.step()

    def mean_over_views(self, x: Tensor, model: nn.Module) -> Tensor:
        """Mean probabilities of the weak views, each mapped back."""
        maps = []
        for view, undo in WEAK_VIEWS:
            self.forwards += 1
            maps.append(undo(torch.sigmoid(model(view(x)))))
        return torch.stack(maps).mean(0)

    def to_device(self, image: Image) -> Tensor:
        """``[1, 3, H, W]``."""
        return torch.from_numpy(image)[None].to(next(self.model.parameters()).device)


def with_statistics_of_the_image(model: nn.Module) -> list[nn.Parameter]:
    """Let BatchNorm layers recollect statistics at every forward; returns their parameters, the only trainable ones."""
    model.train().requires_grad_(False)
    parameters = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
            module.track_running_stats = False
            module.running_mean = module.running_var = None
            parameters += [module.weight, module.bias]
    return parameters


class PlainNoAdapt(PlainLoop):
    """The source model as it is."""

    def prepare(self) -> None:
        """See the base class."""
        self.model.eval().requires_grad_(False)

    def update(self, x: Tensor) -> None:
        """See the base class."""


class PlainBNOnly(PlainLoop):
    """Statistics of the image alone."""

    def update(self, x: Tensor) -> None:
        """See the base class."""


class PlainTent(PlainLoop):
    """Entropy of the prediction."""

    def update(self, x: Tensor) -> None:
        """See the base class."""
        self.descend(entropy(self.forward(x)))


class PlainSAR(PlainLoop):
    """Entropy of the reliable pixels, its gradient taken at the end of a short ascent."""

    rho, margin = 0.05, 0.4

    def update(self, x: Tensor) -> None:
        """See the base class."""
        values = binary_entropies(self.forward(x))
        reliable = values.detach() < self.margin * math.log(2)
        if not reliable.any():
            return
        ascent = self.gradient(values[reliable].mean())
        scale = self.rho / (torch.stack([g.norm() for g in ascent]).norm() + 1e-12)
        saved = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, ascent, strict=True):
                parameter.add_(gradient * scale)
        values = binary_entropies(self.forward(x))
        reliable &= values.detach() < self.margin * math.log(2)
        has_any = bool(reliable.any())
        if has_any:
            self.gradient(values[reliable].mean())
        with torch.no_grad():
            for parameter, value in zip(self.parameters, saved, strict=True):
                parameter.copy_(value)
        if has_any:
            self.optimizer.step()


def replaced_by_neighbours(x: Tensor, masked: float = 0.1, radius: int = 2) -> tuple[Tensor, Tensor]:
    """Noise2Void: a share of the pixels of each channel, each by one of its neighbours; and where they are."""
    image = x[0].cpu().numpy()
    channels, height, width = image.shape
    noisy, mask = image.copy(), np.zeros(image.shape, bool)
    count = int(masked * height * width)
    for channel in range(channels):
        rows, columns = np.random.randint(height, size=count), np.random.randint(width, size=count)
        down, right = np.random.randint(-radius, radius + 1, size=(2, count))
        noisy[channel, rows, columns] = image[channel, (rows + down) % height, (columns + right) % width]
        mask[channel, rows, columns] = True
    return torch.from_numpy(noisy)[None].to(x), torch.from_numpy(mask)[None].to(x)


class PlainDeTTA(PlainLoop):
    """The error of the denoising branch at pixels that were replaced by a neighbour."""

    branches = ("denoising",)
    corrupt: Callable[[Tensor], tuple[Tensor, Tensor]] = staticmethod(replaced_by_neighbours)

    def update(self, x: Tensor) -> None:
        """See the base class."""
        noisy, mask = self.corrupt(x)
        self.forwards += 1
        denoised = torch.sigmoid(self.model.branch("denoising", noisy))
        self.descend((mask * (denoised - x)).abs().mean())


class PlainDLTTA(PlainLoop):
    """TENT with a rate that follows the discrepancy to similar past images."""

    memory_size, neighbours, temperature, rate_scale, largest_rate = 20, 8, 0.2, 1e-3, 1e-3

    def prepare(self) -> None:
        """See the base class."""
        super().prepare()
        self.memory: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.memory_size)

    def update(self, x: Tensor) -> None:
        """See the base class."""
        self.forwards += 1
        activations = self.model.activations(x)
        self.key = activations.bottleneck.detach().mean((2, 3))
        rate = self.learning_rate
        if len(self.memory) >= self.neighbours:
            rate = min(self.rate_scale * self._discrepancy(activations.logits.detach()), self.largest_rate)
        self.optimizer.param_groups[0]["lr"] = rate
        self.descend(entropy(activations.logits))

    def predict(self, x: Tensor) -> Tensor:
        """See the base class; the prediction is remembered."""
        logits = self.forward(x)
        self.memory.append((self.key, logits))
        return logits

    def _discrepancy(self, logits: Tensor) -> float:
        cosines = torch.cat([F.cosine_similarity(self.key, key) for key, _ in self.memory])
        nearest = cosines.topk(self.neighbours)
        weights = torch.softmax(nearest.values / self.temperature, 0)
        past = sum(w * self.memory[int(k)][1] for w, k in zip(weights, nearest.indices, strict=True))
        p, q = (torch.sigmoid(each).clamp(1e-6, 1 - 1e-6) for each in (logits, torch.as_tensor(past)))
        there = p * (p.log() - q.log()) + (1 - p) * ((1 - p).log() - (1 - q).log())
        back = q * (q.log() - p.log()) + (1 - q) * ((1 - q).log() - (1 - p).log())
        return float((there + back).mean() / 2)


class PlainMEMO(PlainLoop):
    """From the source model, one step of all parameters on the entropy of the mean prediction over the views."""

    rate, prior = 2.5e-4, 16.0

    def prepare(self) -> None:
        """See the base class."""
        self.model.eval().requires_grad_(True)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.forward = functools.partial(mixed_batch_norm, module, self.prior)  # type: ignore[method-assign]
        self.source = copy.deepcopy(self.model.state_dict())
        self.parameters = list(self.model.parameters())

    def update(self, x: Tensor) -> None:
        """See the base class."""
        self.model.load_state_dict(self.source)
        self.optimizer = torch.optim.SGD(self.parameters, lr=self.learning_rate)
        p = self.mean_over_views(x, self.model)
        self.descend((-p * torch.log(p) - (1 - p) * torch.log(1 - p)).mean())


def mixed_batch_norm(layer: nn.BatchNorm2d, prior: float, x: Tensor) -> Tensor:
    """BatchNorm by the source statistics, which count as ``prior`` images, and those of this one."""
    weight = prior / (prior + 1)
    mean, variance = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    with torch.no_grad():
        F.batch_norm(x, mean, variance, None, None, True, 1.0, layer.eps)
    mean = weight * layer.running_mean + (1 - weight) * mean
    variance = weight * layer.running_var + (1 - weight) * variance
    return F.batch_norm(x, mean, variance, layer.weight, layer.bias, False, 0.0, layer.eps)


class PlainCoTTA(PlainLoop):
    """A student of all parameters, a teacher that follows it, and the source model, to which scalars return."""

    rate, momentum, restore, confidence = 1e-5, 0.999, 0.01, 1.0

    def prepare(self) -> None:
        """See the base class."""
        with_statistics_of_the_image(self.model)
        self.anchor, self.teacher = (copy.deepcopy(self.model).requires_grad_(False) for _ in range(2))
        self.model.requires_grad_(True)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.learning_rate)

    def restored(self, parameter: nn.Parameter) -> Tensor:
        """Which scalars of a parameter return to the source model."""
        return torch.rand_like(parameter) < self.restore

    def update(self, x: Tensor) -> None:
        """See the base class."""
        with torch.no_grad():
            self.forwards += 1
            p = torch.sigmoid(self.anchor(x))
            if torch.maximum(p, 1 - p).mean() >= self.confidence:
                self.forwards += 1
                target = torch.sigmoid(self.teacher(x))
            else:
                target = self.mean_over_views(x, self.teacher)
        self.descend(F.binary_cross_entropy_with_logits(self.forward(x), target))
        with torch.no_grad():
            for past, present in zip(self.teacher.parameters(), self.parameters, strict=True):
                past.copy_(self.momentum * past + (1 - self.momentum) * present)
            for source, present in zip(self.anchor.parameters(), self.parameters, strict=True):
                present.copy_(torch.where(self.restored(present), source, present))

    def predict(self, x: Tensor) -> Tensor:
        """See the base class: by the teacher."""
        self.forwards += 1
        return self.teacher(x)


class PlainGraTa(PlainLoop):
    """Entropy as auxiliary and consistency as pseudo objective; the rate is scaled by the cosine of their gradients."""

    strong: Callable[[Image], Image] = staticmethod(strong_augmentation)

    def update(self, x: Tensor) -> None:
        """See the base class."""
        auxiliary = self.gradient(entropy(self.forward(x)))

        saved = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, auxiliary, strict=True):
                parameter.sub_(gradient)
        pseudo = self.gradient(self._consistency(x))
        with torch.no_grad():
            for parameter, value in zip(self.parameters, saved, strict=True):
                parameter.copy_(value)

        rate = self.learning_rate * (_cosine(auxiliary, pseudo) + 1) ** 2 / 4
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()  # the gradients of the pseudo objective are still in place

    def _consistency(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            pseudo_label = self.mean_over_views(x, self.model)
        strong = self.to_device(self.strong(x[0].cpu().numpy()))
        return F.binary_cross_entropy_with_logits(self.forward(strong), pseudo_label)


LOOPS: dict[str, type[PlainLoop]] = {
    "no_adapt": PlainNoAdapt,
    "bn_only": PlainBNOnly,
    "tent": PlainTent,
    "sar": PlainSAR,
    "detta": PlainDeTTA,
    "dltta": PlainDLTTA,
    "memo": PlainMEMO,
    "cotta": PlainCoTTA,
    "grata": PlainGraTa,
}
"""The loop of each registered method that has one."""


def entropy(logits: Tensor) -> Tensor:
    """``-p log(p + 1e-6)``, summed over the classes, mean over the pixels."""
    p = torch.sigmoid(logits)
    return (-p * torch.log(p + 1e-6)).sum(1).mean()


def binary_entropies(logits: Tensor) -> Tensor:
    """Of each class and pixel."""
    p = torch.sigmoid(logits)
    return -(p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits))


def _cosine(first: list[Tensor], second: list[Tensor]) -> float:
    """Cosine of two gradients over all tensors jointly."""
    product = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
    norms = [torch.stack([g.square().sum() for g in gradients]).sum().sqrt() for gradients in (first, second)]
    return float(product / (norms[0] * norms[1] + 1e-12))
