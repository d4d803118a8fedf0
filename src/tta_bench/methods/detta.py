"""DeTTA: adapt by denoising the test image with the source model's denoising branch (Wen et al., WACV 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, register_method
from tta_bench.methods.optimizers import Optimizer
from tta_bench.methods.space import Tuned
from tta_bench.methods.state import State
from tta_bench.models.normalisation import RunningStatistics, Statistics
from tta_bench.objectives.base import BoundNetwork
from tta_bench.ops.draws import Draws, drawn, stacked_parts
from tta_bench.runtime.ranges import Decay, Range
from tta_bench.runtime.transfer import sent


@dataclass(frozen=True)
class DeTTAOptions(GradientOptions):
    """Options of DeTTA.

    Attributes:
        betas: of Adam.
        masked: pixels drawn per channel, as a fraction of all, in (0, 1]; a pixel may be drawn twice.
        radius: largest distance in rows and in columns, in pixels, of the neighbour that replaces a drawn pixel.
        running_momentum: weight of the image, in (0, 1], in running statistics that the prediction uses, of the
            branch and of the segmentation decoder, which the corrupted image passes through as well; None normalises
            every pass by the image's own statistics.
    """

    betas: tuple[Decay, Decay]
    masked: Annotated[float, Range(0, 1, "(]"), Tuned(0.02, 0.5)]
    radius: Annotated[int, Range(1, 2**14), Tuned(1, 4)]
    running_momentum: Annotated[float, Range(0, 1, "(]")] | None

    def without_effect(self) -> frozenset[str]:
        """Those of the base class, and the betas of another optimiser than Adam."""
        return super().without_effect() | ({"betas"} if self.optimizer != "adam" else set())


@register_method("detta")
class DeTTA(GradientMethod):
    """One gradient step on a Noise2Void loss: predict pixels that were replaced by one of their neighbours."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=2,
        backwards=1,
        paper="Wen et al., WACV 2024",
        licence="none stated",
        stochastic=True,
        branches=("denoising",),
        needs_unit_range=True,
        per_stream=("learning_rate",),
    )
    Options = DeTTAOptions

    def start(self, streams: int) -> None:
        """Every stream at the source model's affine parameters and statistics, with a fresh optimiser."""
        super().start(streams)
        mean, variance = self.network.source_statistics
        self.running = State(mean=mean.repeat(streams, 1), variance=variance.repeat(streams, 1))

    def make_optimizer(self, **others: Any) -> Optimizer:
        """See the base class; with the betas of the options."""
        return super().make_optimizer(betas=self.options.betas, **others)

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """``theta <- theta - lr * Adam(grad masked error of the denoised image)``."""
        noisy, mask = corrupt(images, draws.generators("blind spots"), self.options.masked, self.options.radius)
        keeps_statistics = self.options.running_momentum is not None

        def objective(network: BoundNetwork) -> Tensor:
            if keeps_statistics:
                # No gradient comes from the segmentation, but its statistics move as those of the branch do.
                denoised, _ = self.network.branch_and_logits("denoising", noisy, network.theta, network.statistics)
            else:
                denoised = network.branch("denoising", noisy)
            return masked_error(torch.sigmoid(denoised), images, mask)

        moved = self._running(len(images), self.options.running_momentum)
        statistics = moved if keeps_statistics else self.statistics
        losses, gradient = self.gradient(objective, self.theta(len(images)), statistics)
        rate = self.each("learning_rate", losses)
        skipped = self.state.step(gradient, rate, losses)
        present = self._running(len(images))
        self.running.mean[: len(images)] = torch.where(skipped[:, None], present.mean, moved.mean)
        self.running.variance[: len(images)] = torch.where(skipped[:, None], present.variance, moved.variance)
        return {"loss_denoising": losses, "lr": rate, "skipped": skipped}

    def predict(self, images: Tensor) -> Tensor:
        """Logits of the clean images, by the running statistics if there are any."""
        statistics: Statistics = self.statistics
        if self.options.running_momentum is not None:
            statistics = self._running(len(images))
        return self.network(images, self.theta(len(images)), statistics)

    def deployed(self, stream: int) -> tuple[Tensor, Statistics]:
        """See the base class: the running statistics, if there are any."""
        theta, statistics = super().deployed(stream)
        if self.options.running_momentum is not None:
            row = slice(stream, stream + 1)
            statistics = RunningStatistics(self.running.mean[row], self.running.variance[row])
        return theta, statistics

    def _running(self, streams: int, momentum: float | None = None) -> RunningStatistics:
        """A copy of the first streams' running statistics, updated by the forward pass if a momentum is given."""
        return RunningStatistics(self.running.mean[:streams].clone(), self.running.variance[:streams].clone(), momentum)


def corrupt(images: Tensor, generators: Sequence[torch.Generator], masked: float, radius: int) -> tuple[Tensor, Tensor]:
    """Replace randomly drawn pixels of each channel by a neighbour's original value (Noise2Void).

    Args:
        images: ``[S, C, H, W]``; left unchanged.
        generators: one CPU generator per image.
        masked: see :class:`DeTTAOptions`.
        radius: likewise; rows and columns are drawn uniformly, so a pixel may stay itself, and wrap at the borders.

    Returns:
        The corrupted images and a Boolean mask of the drawn pixels, both ``[S, C, H, W]``.
    """
    spots = drawn(generators, _blind_spots, tuple(images.shape[1:]), masked, radius, joined=stacked_parts)
    source, mask = (sent(each, images.device) for each in spots)
    return images.flatten(2).gather(2, source.flatten(2)).view_as(images), mask


def _blind_spots(
    generator: torch.Generator, shape: tuple[int, int, int], masked: float, radius: int
) -> tuple[Tensor, Tensor]:
    """Of every pixel of ``shape`` ``(C, H, W)`` whose value it takes, row by row, and whether it was drawn."""
    channels, height, width = shape
    row, column = torch.arange(height)[:, None], torch.arange(width)
    pixels = draw_pixels(shape, masked, generator)
    # One offset per pixel, not per draw: a pixel that is drawn twice needs no rule for which draw counts.
    down, right = torch.randint(-radius, radius + 1, (2, *shape), generator=generator)
    neighbour = (row + down) % height * width + (column + right) % width
    mask = torch.zeros(channels, height * width, dtype=torch.bool).scatter(1, pixels, True).view(shape)
    return torch.where(mask, neighbour, row * width + column), mask


def draw_pixels(shape: tuple[int, int, int], fraction: float, generator: torch.Generator) -> Tensor:
    """``int(fraction * H * W)`` places per channel of ``shape`` ``(C, H, W)``, with replacement: ``[C, count]``."""
    channels, height, width = shape
    return torch.randint(height * width, (channels, int(fraction * height * width)), generator=generator)


def masked_error(denoised: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Absolute error at the masked pixels, averaged over all pixels and channels of ``[S, C, H, W]``: ``[S]``."""
    return (mask * (denoised - images)).abs().flatten(1).mean(1)
