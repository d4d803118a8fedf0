"""DUA: running statistics that move ever less towards each test image (Mirza et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, Method, MethodOptions, register_method
from tta_bench.methods.space import Tuned
from tta_bench.methods.state import State
from tta_bench.models.normalisation import RunningStatistics, Statistics
from tta_bench.ops.draws import Draws, drawn
from tta_bench.runtime.ranges import Fraction, Range
from tta_bench.runtime.transfer import sent

Augmentation = Literal["crop", "flip", "rotate"]


@dataclass(frozen=True)
class DUAOptions(MethodOptions):
    """Options of DUA.

    Attributes:
        initial_momentum: of the recursion, before the first update; in [0, 1].
        decay: factor of the momentum per update, in [0, 1].
        floor: added to the momentum where it is used, not fed back into the recursion; in [0, 1].
        copies: augmented copies of the image whose pooled statistics are one update.
        augmentations: of every copy: a crop of the padded image, a horizontal flip, a quarter rotation.
        padding: of the crop, on each side, as a fraction of the image's shorter side; in [0, 0.5].
        pad_mode: what the padding holds: the mirrored image or zeros.
        max_updates: updates of a stream after which its statistics stay, None for no end.
    """

    initial_momentum: Fraction
    decay: Annotated[Fraction, Tuned(0.8, 1)]
    floor: Annotated[Fraction, Tuned(1e-3, 0.1, log=True)]
    copies: Annotated[int, Range(1, 2**10)]
    augmentations: tuple[Augmentation, ...]
    padding: Annotated[float, Range(0, 0.5)]
    pad_mode: Literal["reflect", "zeros"]
    max_updates: Annotated[int, Range(0, 10**9)] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial_momentum * self.decay + self.floor > 1:
            raise ValueError("initial_momentum * decay + floor, the weight of the first image, exceeds 1")

    def without_effect(self) -> frozenset[str]:
        """What belongs to the crop, where there is none."""
        return super().without_effect() | (set() if "crop" in self.augmentations else {"padding", "pad_mode"})


@register_method("dua")
class DUA(Method):
    """One forward pass over augmented copies moves the running statistics; the affine parameters stay."""

    card = Card(
        adapts="running statistics of normalisation",
        statistics="running average from the source domain on",
        needs_source_statistics=True,
        forwards=17,
        backwards=0,
        paper="Mirza et al., CVPR 2022",
        licence="none stated",
        stochastic=True,
        needs_batch_norm=True,
        needs_unit_range=True,
    )
    Options = DUAOptions

    @classmethod
    def is_stochastic(cls, options: DUAOptions) -> bool:
        """Whether there are updates, and copies that differ."""
        moves = options.max_updates != 0 and _moves(options)
        drawn = {"flip", "rotate", "crop"} if options.padding else {"flip", "rotate"}
        return moves and not drawn.isdisjoint(options.augmentations)

    def start(self, streams: int) -> None:
        """Every stream at the source statistics."""
        super().start(streams)
        mean, variance = self.network.source_statistics
        self.running = State(mean=mean.repeat(streams, 1), variance=variance.repeat(streams, 1))
        self.updates = torch.zeros(streams, dtype=torch.long, device=mean.device)
        self.calls = 0

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """``statistics <- (1 - M) * statistics + M * those of the copies``, M from :meth:`momentum`."""
        active = slice(len(images))
        momentum = self.momentum(self.updates[active] + 1)
        self.calls += 1
        # The device is asked only where all streams may have come to their end: without the pass nothing is missed.
        if self._may_be_over and not momentum.any():
            return {"momentum": momentum, "skipped": torch.zeros_like(momentum, dtype=torch.bool)}
        mean, variance = self.running.mean[active], self.running.variance[active]
        moved = RunningStatistics(mean.clone(), variance.clone(), momentum[:, None].to(images))
        copies = augmented_copies(images, draws.generators("copies"), self.options)
        self.network(copies, self.theta(len(images)), moved)
        finite = (moved.mean.isfinite() & moved.variance.isfinite()).all(dim=1)
        mean.copy_(torch.where(finite[:, None], moved.mean, mean))
        variance.copy_(torch.where(finite[:, None], moved.variance, variance))
        self.updates[active] += finite
        return {"momentum": momentum.masked_fill(~finite, 0), "skipped": ~finite}

    @property
    def _may_be_over(self) -> bool:
        last = self.options.max_updates
        return not _moves(self.options) or (last is not None and self.calls > last)

    def momentum(self, update: Tensor) -> Tensor:
        """Weight of the image at each stream's k-th update, k = 1, 2, ...: ``initial_momentum * decay^k + floor``."""
        options = self.options
        momentum = options.initial_momentum * options.decay ** update.double() + options.floor
        return momentum if options.max_updates is None else momentum.masked_fill(update > options.max_updates, 0)

    def predict(self, images: Tensor) -> Tensor:
        """Logits with the running statistics, which stay as they are."""
        rows = slice(len(images))
        statistics = RunningStatistics(self.running.mean[rows], self.running.variance[rows])
        return self.network(images, self.theta(len(images)), statistics)

    def deployed(self, stream: int) -> tuple[Tensor, Statistics]:
        """See the base class: the running statistics."""
        theta, _ = super().deployed(stream)
        row = slice(stream, stream + 1)
        return theta, RunningStatistics(self.running.mean[row], self.running.variance[row])


def _moves(options: DUAOptions) -> bool:
    """Whether the momentum of any update is above 0, however many there may be."""
    return options.initial_momentum * options.decay > 0 or options.floor > 0


def augmented_copies(images: Tensor, generators: Sequence[torch.Generator], options: DUAOptions) -> Tensor:
    """Randomly cropped, flipped and rotated copies.

    Args:
        images: ``[S, C, H, W]``; left unchanged. Oblong ones are turned by half turns alone.
        generators: one CPU generator per image.
        options: how many and which.

    Returns:
        ``[S * copies, C, H, W]``, the copies of one image next to each other.
    """
    height, width = images.shape[-2:]
    pad = round(options.padding * min(height, width)) if "crop" in options.augmentations else 0
    mode = "reflect" if options.pad_mode == "reflect" else "constant"
    padded = F.pad(images, (pad, pad, pad, pad), mode=mode)
    walks = drawn(generators, _walks, height, width, pad, options, joined=torch.cat)
    # Every copy is a walk through the padded image: all of them are gathered at once.
    first, down, right = sent(walks, images.device).T[:, :, None, None]
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    pixels = (first + down * rows[:, None] + right * columns).view(len(images), 1, -1)
    channels = images.shape[1]
    copies = padded.flatten(2).gather(2, pixels.expand(-1, channels, -1))
    return copies.view(len(images), channels, -1, height, width).transpose(1, 2).flatten(0, 1)


def _walks(generator: torch.Generator, height: int, width: int, pad: int, options: DUAOptions) -> Tensor:
    """Where each copy of an image begins in the padded one, and its steps down and to the right: ``[copies, 3]``.

    Positions are those of pixels, counted along the rows.
    """
    # Drawn even where unused: leaving one augmentation out leaves the draws of the others as they are.
    corners = torch.randint(2 * pad + 1, (options.copies, 2), generator=generator).tolist()
    flips = (torch.rand(options.copies, generator=generator) < 0.5).tolist()
    quarters = torch.randint(4, (options.copies,), generator=generator).tolist()
    walks = []
    for (top, left), flip, quarter in zip(corners, flips, quarters, strict=True):
        rows, columns = torch.tensor([top, top + height - 1]), torch.tensor([left, left + width - 1])
        ends = rows[:, None] * (width + 2 * pad) + columns  # the corners of the crop, turned as it is
        if flip and "flip" in options.augmentations:
            ends = ends.flip(-1)
        if "rotate" in options.augmentations:
            ends = torch.rot90(ends, quarter if height == width else quarter // 2 * 2, dims=(-2, -1))
        down, right = (ends[1, 0] - ends[0, 0]) // max(1, height - 1), (ends[0, 1] - ends[0, 0]) // max(1, width - 1)
        walks.append(torch.stack([ends[0, 0], down, right]))
    return torch.stack(walks)
