"""MEMO: the entropy of the mean prediction over views of one image (Zhang et al., NeurIPS 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, Protocol, register_method
from tta_bench.methods.space import Tuned
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import MixedStatistics
from tta_bench.objectives.base import BoundNetwork
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import CLASSES
from tta_bench.ops.views import WEAK_VIEWS, fitting_views, undo_weak_views, weak_views
from tta_bench.runtime.ranges import NonNegative


@dataclass(frozen=True)
class MEMOOptions(GradientOptions):
    """Options of MEMO.

    Attributes:
        parameters: what is adapted: ``all`` parameters or the ``affine`` ones of normalisation.
        prior: how many images the source statistics count for, beside the one test image; not negative.
    """

    parameters: Literal["all", "affine"]
    prior: Annotated[NonNegative, Tuned(1, 256, log=True)]


@register_method("memo")
class MEMO(GradientMethod):
    """Every image starts from the source model: one step on the entropy of its mean prediction over the views.

    Args:
        network: as in the base class.
        options: as in the base class.
        protocol: as in the base class; the state is fresh at every image.
    """

    card = Card(
        adapts="all parameters",
        statistics="source domain and test image, mixed",
        needs_source_statistics=True,
        forwards=7,
        backwards=1,
        paper="Zhang et al., NeurIPS 2022",
        licence="MIT",
    )
    Options = MEMOOptions

    def __init__(
        self, network: AdaptableNetwork, options: MEMOOptions | None = None, protocol: Protocol | None = None
    ) -> None:
        super().__init__(network, options, replace(protocol or Protocol(), episodic=True))
        prior = self.options.prior
        self.statistics = MixedStatistics(prior / (prior + 1), unbiased=True, differentiable=False)

    @property
    def source_theta(self) -> Tensor:
        """What is adapted, as it is in the source model: ``[scalars]``."""
        return self.network.source_parameters if self.options.parameters == "all" else self.network.source_theta

    def describe(self) -> str:
        """What is adapted and how, for the start of a run."""
        return super().describe() + (", and these alone" if self.options.parameters == "affine" else "")

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """One step on the marginal entropy; the prediction of the clean image follows."""
        losses, gradient = self.gradient(lambda network: marginal_entropy(network, images), self.theta(len(images)))
        rate = torch.full_like(losses, self.options.learning_rate)
        skipped = self.state.step(gradient, rate, losses)
        return {"loss_marginal_entropy": losses, "lr": rate, "skipped": skipped}


def marginal_entropy(network: BoundNetwork, images: Tensor, views: Sequence[str] = tuple(WEAK_VIEWS)) -> Tensor:
    """Entropy of each pixel's mean probabilities over the views, mapped back; mean over the pixels: ``[S]``.

    Args:
        network: the network with its state.
        images: ``[S, 3, H, W]`` in [0, 1].
        views: weak views, those of them that fit the images.
    """
    views = fitting_views(images, views)
    logits = undo_weak_views(network(weak_views(images, views)), views)
    # In log space, so that a probability that rounds to 0 or 1 has a finite gradient.
    if network.activation == "softmax":
        mean = F.log_softmax(logits, CLASSES).logsumexp(dim=1) - math.log(len(views))
        return -(mean.exp() * mean).sum(CLASSES).flatten(1).mean(1)
    foreground = F.logsigmoid(logits).logsumexp(dim=1) - math.log(len(views))
    background = F.logsigmoid(-logits).logsumexp(dim=1) - math.log(len(views))
    return -(foreground.exp() * foreground + background.exp() * background).flatten(1).mean(1)
