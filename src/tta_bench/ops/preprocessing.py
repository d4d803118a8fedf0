"""What a source model expects of its images: their size, the range of their values, and what follows at its border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring an RGB image to another size.

    Args:
        image: uint8 ``[h, w, 3]``, or float32 in grey levels of 0 to 255.
        height: of the result, pixels.
        width: likewise.

    Returns:
        ``[height, width, 3]`` of the same type, by Pillow's bicubic filter.
    """
    if image.dtype != np.uint8:
        channels = [Image.fromarray(channel) for channel in np.moveaxis(image, 2, 0)]
        resized = [np.asarray(each.resize((width, height), Image.Resampling.BICUBIC)) for each in channels]
        return np.stack(resized, axis=2).clip(0, 255)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """As :func:`resize_image` for mask values ``[h, w]``, each pixel the nearest value."""
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def min_max(image: Tensor) -> Tensor:
    """Scale each image of ``[..., 3, H, W]`` to [0, 1] over all its channels and pixels jointly.

    This is the preprocessing of the paper's models. A constant image becomes zero.
    """
    low = image.amin(dim=(-3, -2, -1), keepdim=True)
    span = image.amax(dim=(-3, -2, -1), keepdim=True) - low
    return (image - low) / span.masked_fill(span == 0, 1)


def grey(image: Tensor) -> Tensor:
    """One channel ``[..., 1, H, W]`` of red, green and blue: the luminance of ITU-R BT.601, of a grey image its own."""
    if image.shape[-3] == 1 or bool((image == image[..., :1, :, :]).all()):
        return image[..., :1, :, :]
    return (image * image.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(-3, keepdim=True)


def unit(image: Tensor) -> Tensor:
    """Scale grey levels of 8 bits to [0, 1], ``[..., 3, H, W]``; every image alike."""
    return image / 255


def between_percentiles(image: Tensor, low: float, high: float) -> Tensor:
    """Scale each image of ``[..., 3, H, W]`` so that two percentiles become 0 and 1, and clip what lies beyond.

    Percentiles are taken over all channels and pixels jointly, interpolated linearly as NumPy does. An image without a
    span between them becomes zero.

    Args:
        image: grey levels.
        low: percentile that becomes 0, in [0, 100].
        high: percentile that becomes 1, above ``low``.
    """
    ordered = image.flatten(-3).sort(dim=-1).values

    def percentile(q: float) -> Tensor:
        place = q / 100 * (ordered.shape[-1] - 1)
        below = int(place)
        above = min(below + 1, ordered.shape[-1] - 1)
        return ordered[..., below].lerp(ordered[..., above], place - below)[..., None, None, None]

    start = percentile(low)
    span = percentile(high) - start
    scaled = (image - start) / span.masked_fill(span == 0, 1)
    return scaled.clamp(0, 1).masked_fill(span == 0, 0)


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of an image before a source model sees it, in two steps.

    Grey levels first become values in [0, 1]: methods, views and objectives work on these. Then comes what the network
    was trained with, ``(x - mean) / std`` per channel, at its border
    (:meth:`~tta_bench.models.segmentation.SegmentationModel.features`). The default is the paper's.

    Attributes:
        range: how grey levels become [0, 1]: ``min_max`` of each image, ``unit`` (divided by 255) or ``percentile``.
        percentiles: of each image that become 0 and 1, for ``percentile`` alone.
        mean: of each channel, or one of all, in [0, 1]; None for none.
        std: likewise; above 0.
        channels: of the network, 3 or 1; a network of one is shown the luminance. Part of the network, not of what is
            stored of the preprocessing.
    """

    range: Literal["min_max", "unit", "percentile"] = "min_max"
    percentiles: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int = 3

    def content(self) -> dict[str, Any]:
        """What is stored of it, field by field."""
        return {key: value for key, value in asdict(self).items() if key != "channels"}

    def unit_range(self, image: Tensor) -> Tensor:
        """Grey levels ``[..., 3, H, W]``, floating, as values in [0, 1] of as many channels as the network has."""
        if self.channels == 1:
            image = grey(image)
        if self.percentiles is not None:
            return between_percentiles(image, *self.percentiles)
        return min_max(image) if self.range == "min_max" else unit(image)

    @property
    def back_in_range(self) -> Callable[[Tensor], Tensor]:
        """What brings an image whose values an operation has changed back to [0, 1], as a new image would come."""
        return min_max if self.range == "min_max" else clip

    def __str__(self) -> str:
        """For people: ``unit, mean [0.5], std [0.25]``."""
        values = {"percentiles": self.percentiles, "mean": self.mean, "std": self.std}
        return ", ".join([self.range, *(f"{key} {list(value)}" for key, value in values.items() if value is not None)])


PAPER = Preprocessing()
"""Min-max of each image."""


def clip(images: Tensor) -> Tensor:
    """Values below 0 become 0, above 1 become 1."""
    return images.clamp(0, 1)
