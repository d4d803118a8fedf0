"""Segmentations painted onto images, with Pillow alone."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS: Final[tuple[tuple[int, int, int], ...]] = (
    (0, 230, 90),
    (40, 120, 255),
    (230, 159, 0),
    (240, 228, 66),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
)
"""Contour colours by class: green, blue, then the colour-blind-safe palette of Okabe and Ito."""

_SUPERSAMPLING: Final = 3  # for smooth contours


def fitted(image: NDArray[np.uint8], side: int) -> Image.Image:
    """An image, RGB or grey, as one whose longer side has so many pixels; its aspect ratio is kept."""
    whole = Image.fromarray(image).convert("RGB")
    scale = side / max(whole.size)
    return whole.resize([max(1, round(scale * each)) for each in whole.size], Image.Resampling.LANCZOS)


def paint(
    tile: Image.Image, mask: NDArray[np.bool_], colour: tuple[int, int, int], *, contour: float, fill: float
) -> None:
    """Paint a class onto a tile: a smooth contour inside its border, and a translucent area.

    Args:
        tile: RGB, changed in place.
        mask: bool ``[height, width]`` of any size.
        colour: RGB.
        contour: its width, pixels of the tile.
        fill: opacity of the area, in [0, 1].
    """
    from scipy import ndimage

    fine = (tile.width * _SUPERSAMPLING, tile.height * _SUPERSAMPLING)
    smooth = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(fine, Image.Resampling.BICUBIC)) > 0.5
    ring = smooth & ~ndimage.binary_erosion(smooth, iterations=round(contour * _SUPERSAMPLING), border_value=1)
    opacity = np.where(ring, 1.0, fill * smooth)
    alpha = Image.fromarray((255 * opacity).astype(np.uint8)).resize(tile.size, Image.Resampling.BOX)
    tile.paste(colour, mask=alpha)
