"""GraTa as published, step by step: what ``adapt_speed.py`` compares with. Shares no adaptation code with tta_bench.

One image at a time, nine separate forwards, NumPy and SciPy augmentation with the ranges of batchgenerators, torch's
own ``BatchNorm2d``. Where the published code leaves room the choice is the faster one: convolutions are frozen, so no
gradient of theirs is computed; the network has no auxiliary branches; the pseudo-label's six forwards and the
prediction run under ``no_grad``. Nothing is tuned beyond torch's defaults.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from tta_bench.models.networks.resunet34 import ResUNet

Image = NDArray[np.float32]

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


class PlainGraTa:
    """Entropy as auxiliary and consistency as pseudo objective, Adam over the affine parameters of BatchNorm.

    Args:
        model: the source model, on its device; it is changed.
        learning_rate: the base rate, scaled by the cosine of the two gradients.

    Attributes:
        forwards: of the network since construction.
        backwards: likewise.
    """

    def __init__(self, model: nn.Module, learning_rate: float = 1e-4) -> None:
        self.model = model.train().requires_grad_(False)
        self.parameters: list[nn.Parameter] = []
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(True)
                module.track_running_stats = False
                module.running_mean = module.running_var = None
                self.parameters += [module.weight, module.bias]
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.forwards = self.backwards = 0

    def step(self, image: Image) -> Tensor:
        """Adapt to one image ``[3, H, W]`` in [0, 1] and return its logits ``[1, classes, H, W]``."""
        x = self._to_device(image)
        auxiliary = self._gradient(self._entropy(x))

        saved = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, auxiliary, strict=True):
                parameter.sub_(gradient)
        pseudo = self._gradient(self._consistency(x, image))
        with torch.no_grad():
            for parameter, value in zip(self.parameters, saved, strict=True):
                parameter.copy_(value)

        rate = self.learning_rate * (_cosine(auxiliary, pseudo) + 1) ** 2 / 4
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()  # the gradients of the pseudo objective are still in place
        with torch.no_grad():
            return self._forward(x)

    def _entropy(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self._forward(x))
        return (-p * torch.log(p + 1e-6)).sum(1).mean()

    def _consistency(self, x: Tensor, image: Image) -> Tensor:
        with torch.no_grad():
            maps = [undo(torch.sigmoid(self._forward(view(x)))) for view, undo in WEAK_VIEWS]
            pseudo_label = torch.stack(maps).mean(0)
        logits = self._forward(self._to_device(strong_augmentation(image)))
        return F.binary_cross_entropy_with_logits(logits, pseudo_label)

    def _gradient(self, loss: Tensor) -> list[Tensor]:
        self.optimizer.zero_grad()
        loss.backward()
        self.backwards += 1
        return [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]

    def _forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return self.model(x)

    def _to_device(self, image: Image) -> Tensor:
        return torch.from_numpy(image)[None].to(self.parameters[0].device)


def _cosine(first: list[Tensor], second: list[Tensor]) -> float:
    """Cosine of two gradients over all tensors jointly."""
    product = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
    norms = [torch.stack([g.square().sum() for g in gradients]).sum().sqrt() for gradients in (first, second)]
    return float(product / (norms[0] * norms[1] + 1e-12))


def strong_augmentation(image: Image) -> Image:
    """Strong view of ``[3, H, W]``: five operations, each with its probability, then min-max; the input is kept."""
    image = image.copy()
    if np.random.uniform() < 0.75:  # brightness
        for channel in image:
            channel *= np.random.uniform(0.5, 1.5)
    if np.random.uniform() < 0.75:  # contrast
        for channel in image:
            factor = _around_one(0.5, 1.5)
            mean, low, high = channel.mean(), channel.min(), channel.max()
            channel[:] = np.clip((channel - mean) * factor + mean, low, high)
    if np.random.uniform() < 0.75:  # gamma of the inverted image
        for channel in image:
            exponent = _around_one(0.5, 2.0)
            inverted = -channel
            low = inverted.min()
            span = inverted.max() - low
            channel[:] = -(np.power((inverted - low) / (span + 1e-7), exponent) * (span + 1e-7) + low)
    if np.random.uniform() < 0.5:  # noise
        image += np.random.normal(0.0, random.uniform(0, 0.05), size=image.shape)
    if np.random.uniform() < 0.5:  # blur
        for channel in image:
            if np.random.uniform() < 0.5:
                channel[:] = gaussian_filter(channel, random.uniform(0.5, 1.5))
    return (image - image.min()) / (image.max() - image.min())


def _around_one(low: float, high: float) -> float:
    """From below or above 1 with equal probability."""
    return np.random.uniform(low, 1) if np.random.uniform() < 0.5 else np.random.uniform(1, high)
