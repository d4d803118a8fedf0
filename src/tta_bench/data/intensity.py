"""From the pixel values of a file, of whatever depth and unit, to grey levels of 0 to 255.

Nothing is rounded: where all levels are whole numbers they are kept in 8 bits, and else in floating point. So a picture
of 8 bits stays what it is, and one of 16 bits keeps its precision on its whole way to the network.
"""

from __future__ import annotations

import numpy as np

from tta_bench.data.decoders.base import Stack
from tta_bench.runtime.files_section import IntensityConfig


def grey_levels(stack: Stack, intensity: IntensityConfig | None) -> np.ndarray:
    """Grey levels of a picture, or of the slices of a volume alike.

    Args:
        stack: pixel values.
        intensity: which of them become black and white. None: values of unsigned 8 and 16 bits by the range of their
            type, others by the file's window, or else by its lowest and highest value.

    Returns:
        uint8 or float32 ``[slices, height, width]`` or ``[slices, height, width, 3]``, 0 to 255.
    """
    values = stack.values
    if values.dtype == bool:
        values = values.astype(np.uint8)
    low, high = _ends(values, stack, intensity)
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return 255 - values if stack.inverted else values
    span = high - low
    levels = np.clip((values.astype(np.float64) - low) * 255 / (span or 1), 0, 255)
    if stack.inverted:
        levels = 255 - levels
    whole = levels.astype(np.uint8)
    return whole if (whole == levels).all() else levels.astype(np.float32)


def _ends(values: np.ndarray, stack: Stack, intensity: IntensityConfig | None) -> tuple[float, float]:
    """The values that become black and white."""
    if intensity is not None and intensity.window is not None:
        return intensity.window
    if intensity is not None and intensity.percentile is not None:
        low, high = np.percentile(values, intensity.percentile)
        return float(low), float(high)
    if intensity is None and stack.window is not None:
        return stack.window
    if intensity is None and values.dtype in (np.uint8, np.uint16):
        return 0, float(np.iinfo(values.dtype).max)
    return float(values.min()), float(values.max())
