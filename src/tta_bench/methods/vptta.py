"""VPTTA: a prompt in the frequency domain of each image; the network stays as it is (Chen et al., CVPR 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.methods.base import Card, Diagnostics, Method, MethodOptions, register_method
from tta_bench.methods.memory_bank import MemoryBank
from tta_bench.methods.optimizers import make_optimizer
from tta_bench.methods.space import Tuned
from tta_bench.methods.state import AdaptedParameters
from tta_bench.models.normalisation import AlignedStatistics, Statistics
from tta_bench.ops.draws import Draws
from tta_bench.ops.geometry import stacked, unstacked
from tta_bench.runtime.ranges import Decay, NonNegative, Positive, Range


@dataclass(frozen=True)
class VPTTAOptions(MethodOptions):
    """Options of VPTTA.

    Attributes:
        learning_rate: of Adam, not negative.
        betas: of Adam.
        prompt_size: side of the square of low frequencies that the prompt scales, in cycles per image.
        warm_up: the image's statistics weigh 1/2 at image ``warm_up ** 2``, less afterwards; positive.
        memory: past images that are kept, the oldest leave first.
        neighbours: similar past images whose prompts start the present one, at most ``memory``.
        attention_temperature: of the softmax over their cosine similarities, positive.
    """

    learning_rate: Annotated[NonNegative, Tuned(1e-4, 1, log=True)]
    betas: tuple[Decay, Decay]
    prompt_size: Annotated[int, Range(1, 64)]
    warm_up: Annotated[Positive, Tuned(1, 20)]
    memory: Annotated[int, Range(1, 10**6)]
    neighbours: Annotated[int, Range(1, 10**6)]
    attention_temperature: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours > self.memory:
            raise ValueError(f"neighbours={self.neighbours} must lie between 1 and memory={self.memory}")


@register_method("vptta")
class VPTTA(Method):
    """One step on a prompt that brings the statistics of the prompted image to those the layers use."""

    card = Card(
        adapts="low-frequency prompt of the image",
        statistics="source domain and test image, mixed",
        needs_source_statistics=True,
        forwards=2,
        backwards=1,
        paper="Chen et al., CVPR 2024",
        licence="MIT",
        needs_batch_norm=True,
        needs_unit_range=True,
        per_stream=("learning_rate",),
    )
    Options = VPTTAOptions

    @property
    def source_theta(self) -> Tensor:
        """The prompt that changes nothing, ``[channels * prompt_size ** 2]``."""
        return self.network.source_theta.new_ones(self.network.model.in_channels * self.options.prompt_size**2)

    def start(self, streams: int) -> None:
        """A prompt of ones, a fresh optimiser, an empty memory and no image seen, for every stream."""
        super().start(streams)
        device = self.source_theta.device
        self.state = AdaptedParameters(self.source_theta, streams, make_optimizer("adam", betas=self.options.betas))
        self.memory = MemoryBank(streams, self.options.memory, device)
        self.seen = torch.zeros(streams, dtype=torch.long, device=device)
        self._is_counted = torch.zeros(streams, dtype=torch.bool, device=device)
        self._keys = self.theta(streams).clone()

    def theta(self, streams: int) -> Tensor:
        """The prompts of the first streams, ``[A, channels * prompt_size ** 2]``."""
        return self.state.theta[:streams]

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """``P <- P - lr * Adam(grad misalignment)`` from a start that similar images of the past suggest."""
        prompts = self.theta(len(images))
        before = prompts.clone()
        if draws.update == 0:
            self._begin(images)
        is_counted = self._is_counted[: len(images)]
        number = self.seen[: len(images)] + ~is_counted
        losses, gradient = self.gradient_of(lambda rows: self._misalignment(images, rows, number), prompts)
        rate = self.each("learning_rate", losses)
        skipped = self.state.step(gradient, rate, losses)
        prompts.copy_(torch.where(skipped[:, None], before, prompts))
        taken = ~skipped
        self.seen[: len(images)] = torch.where(taken, number, self.seen[: len(images)])
        is_counted |= taken
        return {"loss_alignment": losses, "lr": rate, "skipped": skipped}

    def predict(self, images: Tensor) -> Tensor:
        """Logits of the prompted images, with statistics mixed as for the latest image."""
        statistics = self._statistics(self.seen[: len(images)])
        return self.network(self._prompted(images, self.theta(len(images))), self._affine(len(images)), statistics)

    def deployed(self, stream: int) -> tuple[Tensor, Statistics]:
        """See the base class: there is none."""
        raise UserError(
            "vptta predicts the prompted image, so that no plain network predicts alike: keep the adapter, "
            "and its state with state_dict()"
        )

    def describe(self) -> str:
        """See the base class."""
        return (
            f"adapts {self.card.adapts}, {self.source_theta.numel()} scalars; "
            f"statistics of the {self.card.statistics}; {self.network.describe()}"
        )

    def _begin(self, images: Tensor) -> None:
        """Put the image before into the memory, and start the prompt of the new one."""
        tiles = self.network.tiles(images)
        keys = low_frequencies(unstacked(images, tiles), self.options.prompt_size).abs().flatten(1)
        keys = stacked(keys, tiles)
        prompts, options = self.theta(len(images)), self.options
        self.memory.push(self._keys[: len(images)], prompts, self._is_counted[: len(images)])
        recalled = self.memory.recall(keys, options.neighbours, options.attention_temperature)
        is_small = self.memory.lengths(len(images)) < options.neighbours
        prompts.copy_(torch.ones_like(prompts) if recalled is None else recalled.masked_fill(is_small[:, None], 1))
        self._keys[: len(images)] = keys
        self._is_counted[: len(images)] = False

    def _prompted(self, images: Tensor, prompts: Tensor) -> Tensor:
        """:func:`prompted` images; one prompt serves every tile of an image, whose spectrum is its own."""
        tiles = self.network.tiles(images)
        rows = prompts if tiles == 1 else prompts.repeat_interleave(tiles, dim=0)
        return stacked(prompted(unstacked(images, tiles), rows), tiles)

    def _misalignment(self, images: Tensor, prompts: Tensor, number: Tensor) -> Tensor:
        """Mean over the layers of the distances that :class:`AlignedStatistics` records: ``[A]``."""
        statistics = self._statistics(number)
        self.network(self._prompted(images, prompts), self._affine(len(images)), statistics)
        return torch.stack(statistics.distances).mean(dim=0)

    def _statistics(self, number: Tensor) -> AlignedStatistics:
        """The mixture for the ``number``-th image ``[A]`` of each stream."""
        source_weight = 1 - image_weight(number, self.options.warm_up)
        return AlignedStatistics(source_weight[:, None].to(self.network.source_theta))

    def _affine(self, streams: int) -> Tensor:
        """The source model's affine parameters, ``[A, scalars]``."""
        return self.network.source_theta.expand(streams, -1)


def image_weight(number: Tensor, warm_up: float) -> Tensor:
    """Weight of the statistics of the n-th image, ``1 / (sqrt(n) / warm_up + 1)``: the source gains trust."""
    return 1 / (number.double().sqrt() / warm_up + 1)


def low_frequencies(images: Tensor, size: int) -> Tensor:
    """The part of the spectrum that a prompt scales, complex ``[A, C, size, size]``, of ``[A, C, H, W]`` images."""
    return torch.fft.fft2(images)[_window(images, size)]


def prompted(images: Tensor, prompts: Tensor) -> Tensor:
    """Images whose low-frequency amplitudes are multiplied by a prompt; the phases stay.

    Args:
        images: ``[A, C, H, W]``; left unchanged.
        prompts: ``[A, C * size * size]``.

    Returns:
        ``[A, C, H, W]``, differentiable in the prompts; not confined to [0, 1].
    """
    channels = images.shape[1]
    size = math.isqrt(prompts.shape[1] // channels)
    spectrum = torch.fft.fft2(images)
    window = _window(images, size)
    # Only what changes is transformed back, so that a prompt of ones gives the very same image.
    change = torch.zeros_like(spectrum)
    change[window] = (prompts.view(-1, channels, size, size) - 1) * spectrum[window]
    return images + torch.fft.ifft2(change).real


def window_start(side: int, size: int) -> int:
    """Where the prompt begins in a spectrum of ``side`` frequencies with the zero frequency at ``side // 2``."""
    return (side - size) // 2


def _window(images: Tensor, size: int) -> tuple[Any, ...]:
    """Index of the prompt's frequencies in a spectrum ``[A, 3, H, W]`` as ``fft2`` returns it, zero frequency first."""
    rows, columns = (
        (torch.arange(size, device=images.device) + window_start(side, size) - side // 2) % side
        for side in images.shape[-2:]
    )
    return ..., rows[:, None], columns
