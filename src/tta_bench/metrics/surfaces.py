"""Distances between the boundaries of two masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Distances = NDArray[np.float64]


def surface_distances(
    prediction: Tensor, truth: Tensor, spacing: tuple[float, ...]
) -> tuple[Distances, Distances] | None:
    """From every boundary pixel of a mask to the nearest boundary pixel of the other, Euclidean, between centres.

    A boundary pixel is one of the mask with a neighbour outside of it or of the image, sharing a side.

    Args:
        prediction: bool ``[H, W]`` or ``[D, H, W]``.
        truth: bool, of the same shape.
        spacing: side lengths of a pixel, in the unit of the distances.

    Returns:
        Those of the prediction's boundary and those of the truth's; None where a mask is empty.
    """
    masks = [mask.cpu().numpy() for mask in (prediction, truth)]
    if not all(mask.any() for mask in masks):
        return None
    union = masks[0] | masks[1]
    axes = range(union.ndim)
    filled = [np.flatnonzero(union.any(axis=tuple(each for each in axes if each != axis))) for axis in axes]
    box = tuple(slice(places[0], places[-1] + 1) for places in filled)  # no nearest pixel lies outside
    from scipy.ndimage import binary_erosion, distance_transform_edt  # a plan has no use for it

    predicted, true = (mask[box] & ~binary_erosion(mask[box]) for mask in masks)
    to_truth, to_prediction = (distance_transform_edt(~edge, sampling=spacing) for edge in (true, predicted))
    return to_truth[predicted], to_prediction[true]
