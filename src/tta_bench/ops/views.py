"""Views of a test image: six invertible weak ones and a photometric strong one, in torch, on the device.

Follows Eq. 2 of the GraTa paper and the ranges of its official code (batchgenerators 0.21-0.25).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.ops.draws import drawn
from tta_bench.ops.preprocessing import min_max
from tta_bench.runtime.numerics import placement
from tta_bench.runtime.ranges import Fraction, Range, check_ranges
from tta_bench.runtime.transfer import host_zeros, sent

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


def fitting_views(images: Tensor, names: Sequence[str] = tuple(WEAK_VIEWS)) -> tuple[str, ...]:
    """Those of the weak views that keep the shape of images ``[..., H, W]``: of oblong ones no quarter turns."""
    shape = images.shape[-2:]
    probe = torch.empty(shape, device="meta")
    return tuple(name for name in names if WEAK_VIEWS[name][0](probe).shape == shape)


def weak_views(images: Tensor, names: Sequence[str] = tuple(WEAK_VIEWS)) -> Tensor:
    """Views ``[S * V, C, H, W]`` of images ``[S, C, H, W]`` that they fit, those of one image side by side."""
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
    """The strong view: operations in this order, then what brings an image into [0, 1]: in the paper min-max.

    ``contrast`` and ``gamma`` draw from below and above 1 with equal
    probability; ``noise`` is the standard deviation on the [0, 1] image (the code calls it a variance); ``blur``
    is in pixels and hits each channel with probability ``blur_channel_p``.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    brightness: Operation
    contrast: Operation
    gamma: Operation
    noise: Operation
    blur: Operation
    blur_channel_p: Fraction

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


def strong_draws(
    images: Tensor, generators: Sequence[torch.Generator], settings: StrongAugmentation
) -> tuple[Tensor, Tensor]:
    """What is drawn for the strong views of images ``[S, C, H, W]``, on their device.

    Args:
        images: of which only the shape, the type and the device count.
        generators: one CPU generator per image, so that an image's view depends on no neighbour.
        settings: probabilities and ranges.

    Returns:
        ``[S, C, columns]``: of every operation before the blur whether it fires and its parameter, then the blur's
        sigma, 0 for none; and what is added as noise, ``[S, C, H, W]``, of no numbers where there never is any.
    """
    numbers, noise = drawn(generators, _draw, tuple(images.shape[1:]), images.dtype, settings, joined=_of_all)
    if noise is not None:
        noise = sent(noise, images.device)
    else:
        noise = images.new_zeros(images.shape if settings.noise.p else (0,))
    return sent(numbers, images.device), noise


def strong_views(
    images: Tensor,
    numbers: Tensor,
    noise: Tensor,
    settings: StrongAugmentation,
    back_in_range: Transform = min_max,
) -> Tensor:
    """One strong view of each image.

    Each operation runs on all images at once, so that their number costs no kernels. What fires nowhere is computed all
    the same where the host does not know the numbers: what a device is given does not depend on them.

    Args:
        images: ``[S, 3, H, W]`` in [0, 1]; left unchanged.
        numbers: from :func:`strong_draws`, as the next one.
        noise: likewise.
        settings: of the draws.
        back_in_range: what follows the operations, see :class:`~tta_bench.ops.preprocessing.Preprocessing`.

    Returns:
        ``[S, 3, H, W]`` in [0, 1].
    """
    is_known = placement(images.device).image_by_image
    for place, (name, operation) in enumerate(_OPERATIONS.items()):
        fires = numbers[:, :1, 2 * place, None, None] != 0
        if bool(fires.any()) if is_known else getattr(settings, name).p:
            parameters = noise if name == "noise" else numbers[:, :, 2 * place + 1, None, None]
            images = torch.where(fires, operation(images, parameters), images)
    blur, sigmas = settings.blur, numbers[:, :, -1].flatten()
    blurred = gaussian_blur(images.flatten(0, 1), sigmas, reach(blur.range[1]) if blur.p else 0)
    return back_in_range(blurred.view_as(images))


def _of_all(views: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor | None]:
    """What :func:`_draw` drew for ``S`` images, as :func:`strong_draws` gives it; None where there is no noise."""
    numbers = torch.stack([_columns(view) for view in views])
    noisy = [view["noise"] for view in views if "noise" in view]
    if not noisy:
        return numbers, None
    noise = host_zeros(len(views), *noisy[0].shape, dtype=noisy[0].dtype)
    for place, view in zip(noise, views, strict=True):
        if "noise" in view:
            place.copy_(view["noise"])
    return numbers, noise


def _columns(view: dict[str, Tensor]) -> Tensor:
    """The numbers of one image, ``[C, columns]``."""
    sigmas = view["blur"].flatten()
    columns = []
    for name in _OPERATIONS:
        fires = torch.full_like(sigmas, name in view)
        columns += [fires, view[name].flatten() if name in view and name != "noise" else torch.zeros_like(sigmas)]
    return torch.stack([*columns, sigmas], dim=1)


def _draw(
    generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype, settings: StrongAugmentation
) -> dict[str, Tensor]:
    """The parameters of those operations that fire for one image of ``shape`` ``(C, H, W)``, on the CPU.

    Returns:
        Name -> ``[C, 1, 1]``; of noise its values ``[C, H, W]``; of blur, always, 0 for a channel that it misses.
    """
    channels = shape[0]

    def uniform(low: float, high: float, count: int) -> Tensor:
        draw = torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low
        return draw.to(dtype)[:, None, None]

    def around_one(operation: Operation) -> Tensor:
        below = uniform(min(operation.range[0], 1), 1, channels)
        above = uniform(max(operation.range[0], 1), max(operation.range[1], 1), channels)
        coin = uniform(0, 1, channels) < 0.5
        return torch.where(coin & (operation.range[0] < 1), below, above)

    def fires(operation: Operation) -> bool:
        return float(torch.rand((), generator=generator)) < operation.p

    drawn = {"blur": torch.zeros(channels, dtype=dtype)}
    if fires(settings.brightness):
        drawn["brightness"] = uniform(*settings.brightness.range, channels)
    if fires(settings.contrast):
        drawn["contrast"] = around_one(settings.contrast)
    if fires(settings.gamma):
        drawn["gamma"] = around_one(settings.gamma)
    if fires(settings.noise):
        sigma = uniform(*settings.noise.range, 1)
        drawn["noise"] = sigma * torch.randn(tuple(shape), generator=generator).to(dtype)
    if fires(settings.blur):
        sigmas = uniform(*settings.blur.range, channels)
        hit = torch.rand(channels, generator=generator) < settings.blur_channel_p
        drawn["blur"] = torch.where(hit[:, None, None], sigmas, 0)
    return drawn


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale each channel of ``[..., H, W]`` about its mean by ``[..., 1, 1]``; clip to its range before the change."""
    mean = images.mean(dim=(-2, -1), keepdim=True)
    low, high = images.amin(dim=(-2, -1), keepdim=True), images.amax(dim=(-2, -1), keepdim=True)
    return torch.minimum(torch.maximum((images - mean) * factor + mean, low), high)


def gamma_of_inverted(images: Tensor, exponent: Tensor) -> Tensor:
    """Gamma correction of negated ``[..., H, W]``, per channel by ``[..., 1, 1]``, keeping its range."""
    inverted = -images
    low = inverted.amin(dim=(-2, -1), keepdim=True)
    span = inverted.amax(dim=(-2, -1), keepdim=True) - low + 1e-7
    return -(((inverted - low) / span) ** exponent * span + low)


def reach(sigma: float) -> int:
    """Pixels at which a Gaussian is cut: four sigma."""
    return int(4 * sigma + 0.5)


def gaussian_blur(channels: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Blur each of ``[N, H, W]`` by its own sigma, 0 for none.

    Kernels are cut at four sigma, edges are mirrored (``scipy.ndimage.gaussian_filter``'s defaults).

    Args:
        channels: of images.
        sigmas: ``[N]`` on their device.
        radius: the :func:`reach` of the largest sigma, or more.
    """
    if placement(channels.device).image_by_image and (len(channels) > 1 or reach(float(sigmas[0])) < radius):
        # An image's view must not depend on its neighbours.
        each = zip(channels.split(1), sigmas.split(1), strict=True)
        return torch.cat([gaussian_blur(x, sigma, reach(float(sigma))) for x, sigma in each])
    if not radius:
        return channels
    kernels = _kernels(sigmas, radius).to(channels.dtype)
    padded, groups = _mirrored(channels, radius)[None], len(channels)
    columns, rows = kernels[:, None, :, None], kernels[:, None, None, :]
    return F.conv2d(F.conv2d(padded, columns, groups=groups), rows, groups=groups)[0]


def _kernels(sigmas: Tensor, radius: int) -> Tensor:
    """Gaussians of float64 ``[N, 2 * radius + 1]`` that sum to 1 within their reach, with zeros up to ``radius``."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=sigmas.device)
    wide = sigmas.double()[:, None]
    beyond = offsets.abs() > (4 * wide + 0.5).floor()
    kernels = torch.exp(-0.5 * (offsets / wide.masked_fill(wide == 0, 1)) ** 2).masked_fill(beyond, 0)
    return kernels / kernels.sum(dim=1, keepdim=True)


def _mirrored(channels: Tensor, width: int) -> Tensor:
    """Pad ``[N, H, W]`` by mirror images that repeat the edge pixel (scipy's ``reflect``; torch's does not)."""

    def places(size: int) -> Tensor:
        position = torch.arange(-width, size + width, device=channels.device) % (2 * size)
        return torch.minimum(position, 2 * size - 1 - position)

    height, size = channels.shape[1:]
    columns = places(size)
    rows = columns if height == size else places(height)
    return channels[:, rows[:, None], columns]


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": torch.mul,
    "contrast": contrast,
    "gamma": gamma_of_inverted,
    "noise": torch.add,
}
"""Those of the strong view before the blur, in order."""
