"""Recognition of the test image's orientation by an auxiliary branch (Table 5 of the GraTa paper)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.objectives.base import BoundNetwork, register_pretext_task
from tta_bench.ops.draws import Draws
from tta_bench.ops.views import WEAK_VIEWS, fitting_views
from tta_bench.runtime.transfer import sent

ROTATION_CLASSES = ("horizontal_flip", "vertical_flip", "rotate_90", "rotate_180", "rotate_270", "identity")
"""What each output of the rotation branch stands for, in the GraTa authors' order; the paper names rotations only."""


def head(bottleneck_channels: int) -> nn.Module:
    """Logits of :data:`ROTATION_CLASSES`, from the mean of the bottleneck over all pixels."""
    layers: list[tuple[str, nn.Module]] = [
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(bottleneck_channels, 256)),
        ("activation1", nn.LeakyReLU(0.2)),
        ("linear2", nn.Linear(256, 64)),
        ("activation2", nn.LeakyReLU(0.2)),
        ("linear3", nn.Linear(64, len(ROTATION_CLASSES))),
    ]
    return nn.Sequential(OrderedDict(layers))


def training_loss(branch: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean cross-entropy of the transform that was applied to each image: a scalar."""
    labels = torch.randint(len(ROTATION_CLASSES), (len(images),))
    return F.cross_entropy(branch(rotated(images, labels)), sent(labels, images.device))


@register_pretext_task("rotation", head=head, training_loss=training_loss)
def rotation(network: BoundNetwork, images: Tensor, draws: Draws) -> Tensor:
    """Cross-entropy of the transform that was applied to the image: ``[S]``, at least 0; at random ln 6.

    Args:
        network: the network with its state; its source model has the branch ``rotation``.
        images: ``[S, 3, H, W]`` in [0, 1].
        draws: the transform of each image, one of :data:`ROTATION_CLASSES` that fit it with equal probability.
    """
    generators = draws.generators("rotation")
    fitting = torch.tensor([ROTATION_CLASSES.index(name) for name in fitting_views(images, ROTATION_CLASSES)])
    labels = torch.cat([fitting[torch.randint(len(fitting), (1,), generator=generator)] for generator in generators])
    (losses,) = network.replayable(_mistaken, rotated(images, labels), sent(labels, images.device))
    return losses


def _mistaken(network: BoundNetwork, turned: Tensor, labels: Tensor) -> tuple[Tensor]:
    return (F.cross_entropy(network.branch("rotation", turned), labels, reduction="none"),)


def rotated(images: Tensor, labels: Tensor) -> Tensor:
    """Each of the images ``[N, C, H, W]`` under the transform of its label ``[N]``."""
    transforms = [WEAK_VIEWS[ROTATION_CLASSES[label]][0] for label in labels.tolist()]
    return torch.stack([transform(image) for transform, image in zip(transforms, images, strict=True)])
