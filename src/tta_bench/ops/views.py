"""Views of a test image: six invertible weak ones and a photometric strong one, in torch, on the device.

Follows Eq. 2 of the GraTa paper and the ranges of its official code (batchgenerators 0.21-0.25).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.ops.preprocessing import min_max
from tta_bench.runtime.ranges import Fraction, Range, check_ranges

Transform = Callable[[Tensor], Tensor]


def _rotate(quarters: int) -> Transform:
    """Rotation counter-clockwise by quarter turns over the last two dimensions."""
    return lambda x: torch.rot90(x, quarters, dims=(-2, -1))


def _flip(dim: int) -> Transform:
    return lambda x: torch.flip(x, dims=(dim,))


WEAK_VIEWS: dict[str, tuple[Transform, Transform]] = {
    "identity": (lambda x: x, lambda x: x),
    "horizontal_flip": (_flip(-1), _flip(-1)),
    "vertical_flip": (_flip(-2), _flip(-2)),
    "rotate_90": (_rotate(1), _rotate(-1)),
    "rotate_180": (_rotate(2), _rotate(-2)),
    "rotate_270": (_rotate(3), _rotate(-3)),
}
"""Name -> (transform, its inverse), exact permutations of the pixels of square images."""


def weak_views(images: Tensor, names: Sequence[str] = tuple(WEAK_VIEWS)) -> Tensor:
    """Views ``[S * V, C, H, W]`` of square images ``[S, C, H, W]``, the views of one image next to each other."""
    return torch.stack([WEAK_VIEWS[name][0](images) for name in names], dim=1).flatten(0, 1)


def undo_weak_views(maps: Tensor, names: Sequence[str] = tuple(WEAK_VIEWS)) -> Tensor:
    """Maps ``[S, V, C, H, W]`` in the geometry of the original images, from maps of views ``[S * V, C, H, W]``."""
    per_view = maps.unflatten(0, (-1, len(names))).unbind(1)
    return torch.stack([WEAK_VIEWS[n][1](view) for n, view in zip(names, per_view, strict=True)], dim=1)


Parameter = Annotated[float, Range(0, 255)]
"""Of an operation of the strong view: a larger factor or blur leaves nothing of an image of 256 grey levels."""


@dataclass(frozen=True)
class Operation:
    """One operation of the strong view.

    Attributes:
        p: probability that it is applied to an image; 0 switches it off.
        range: of its uniformly drawn parameter.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    p: Fraction
    range: tuple[Parameter, Parameter]

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.range[0] > self.range[1]:
            raise ValueError(f"range={list(self.range)} is reversed: give the lower end first")


@dataclass(frozen=True)
class StrongAugmentation:
    """The strong view: operations in this order, then min-max over the whole image.

    Defaults are those of the official code. ``contrast`` and ``gamma`` draw from below and above 1 with equal
    probability; ``noise`` is the standard deviation on the [0, 1] image (the code calls it a variance); ``blur``
    is in pixels and hits each channel with probability ``blur_channel_p``.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    brightness: Operation = field(default_factory=lambda: Operation(0.75, (0.5, 1.5)))
    contrast: Operation = field(default_factory=lambda: Operation(0.75, (0.5, 1.5)))
    gamma: Operation = field(default_factory=lambda: Operation(0.75, (0.5, 2.0)))
    noise: Operation = field(default_factory=lambda: Operation(0.5, (0.0, 0.05)))
    blur: Operation = field(default_factory=lambda: Operation(0.5, (0.5, 1.5)))
    blur_channel_p: Fraction = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def is_random(self) -> bool:
        """Whether two draws of the strong view can differ."""
        blur = self.blur
        return (
            _varies(self.brightness.p, self.brightness.range, identity=1)
            or _varies(self.contrast.p, self.contrast.range, constant_from=1)
            or _varies(self.gamma.p, self.gamma.range, constant_from=1)
            or _varies(self.noise.p, self.noise.range, constant_from=math.inf, identity=0)
            or _varies(blur.p * self.blur_channel_p, blur.range, identity=0)
        )


def _varies(p: float, range: tuple[float, float], *, constant_from: float = 0, identity: float | None = None) -> bool:
    """Whether what an operation does to an image is drawn.

    Args:
        p: probability that it is applied.
        range: of its parameter.
        constant_from: a parameter with one possible value is a constant from here on.
        identity: the parameter that leaves every image as it is, bit by bit.
    """
    low, high = range
    if p == 0 or low == high == identity:
        return False
    return p < 1 or low < max(high, constant_from)


def strong_views(images: Tensor, generators: Sequence[torch.Generator], settings: StrongAugmentation) -> Tensor:
    """One strong view of each image.

    Args:
        images: ``[S, 3, H, W]`` in [0, 1]; left unchanged.
        generators: one CPU generator per image, so that an image's view depends on no neighbour.
        settings: probabilities and ranges.

    Returns:
        ``[S, 3, H, W]`` in [0, 1].
    """
    views = [_strong_view(image, generator, settings) for image, generator in zip(images, generators, strict=True)]
    return min_max(torch.stack(views))


def _strong_view(image: Tensor, generator: torch.Generator, settings: StrongAugmentation) -> Tensor:
    """The operations on one image ``[3, H, W]``, before min-max."""
    channels = image.shape[0]

    def uniform(low: float, high: float, count: int) -> Tensor:
        draw = torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low
        return draw.to(image)[:, None, None]

    def around_one(operation: Operation) -> Tensor:
        below = uniform(min(operation.range[0], 1), 1, channels)
        above = uniform(max(operation.range[0], 1), max(operation.range[1], 1), channels)
        coin = uniform(0, 1, channels) < 0.5
        return torch.where(coin & (operation.range[0] < 1), below, above)

    def fires(operation: Operation) -> bool:
        return float(torch.rand((), generator=generator)) < operation.p

    if fires(settings.brightness):
        image = image * uniform(*settings.brightness.range, channels)
    if fires(settings.contrast):
        image = contrast(image, around_one(settings.contrast))
    if fires(settings.gamma):
        image = gamma_of_inverted(image, around_one(settings.gamma))
    if fires(settings.noise):
        sigma = uniform(*settings.noise.range, 1)
        image = image + sigma * torch.randn(image.shape, generator=generator).to(image)
    if fires(settings.blur):
        sigmas = uniform(*settings.blur.range, channels).flatten().tolist()
        hit = (torch.rand(channels, generator=generator) < settings.blur_channel_p).tolist()
        blurred = [gaussian_blur(c, s) if h else c for c, s, h in zip(image.unbind(0), sigmas, hit, strict=True)]
        image = torch.stack(blurred)
    return image


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Scale each channel of ``[3, H, W]`` about its mean by ``[3, 1, 1]``; clip to its range before the change."""
    mean = image.mean(dim=(-2, -1), keepdim=True)
    low, high = image.amin(dim=(-2, -1), keepdim=True), image.amax(dim=(-2, -1), keepdim=True)
    return torch.minimum(torch.maximum((image - mean) * factor + mean, low), high)


def gamma_of_inverted(image: Tensor, exponent: Tensor) -> Tensor:
    """Gamma correction of the negated image ``[3, H, W]``, per channel by ``[3, 1, 1]``, keeping its range."""
    inverted = -image
    low = inverted.amin(dim=(-2, -1), keepdim=True)
    span = inverted.amax(dim=(-2, -1), keepdim=True) - low + 1e-7
    return -(((inverted - low) / span) ** exponent * span + low)


def gaussian_blur(channel: Tensor, sigma: float) -> Tensor:
    """Blur ``[H, W]``: kernel cut at four sigma, edges mirrored (``scipy.ndimage.gaussian_filter``'s defaults)."""
    if sigma == 0:
        return channel
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(channel)
    padded = _mirror(_mirror(channel, radius, 0), radius, 1)[None, None]
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[0, 0]


def _mirror(x: Tensor, width: int, dim: int) -> Tensor:
    """Pad by mirror images that repeat the edge pixel (scipy's ``reflect``; torch's ``reflect`` does not)."""
    size = x.shape[dim]
    position = torch.arange(-width, size + width, device=x.device) % (2 * size)
    return x.index_select(dim, torch.where(position < size, position, 2 * size - 1 - position))
