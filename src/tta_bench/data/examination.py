"""What may be wrong with domains that can be read: darkness, cut regions, classes beside those around them, copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from tta_bench.data.domain import Domain
from tta_bench.data.ragged import Ragged

_DARK = 20.0  # grey levels up to which an image is suspiciously dark: 12 bits in 16 reach 16, and resizing beyond
_SIDE = 33  # pixels of the thumbnails that are compared, at least
_BITS = 10  # of 64 in which the hashes of two copies may differ
_GREY = 6.0  # mean difference of their thumbnails, grey levels
_RARE = 0.25  # share of a domain up to which a region at the border is remarkable: vessels always are there
_OPEN = 0.5  # share of a region's contour that may lie on the background, though another class is around it


def suspicions(domain: Domain) -> list[str]:
    """Sentences on a domain: dark images, regions that the border cuts, nested classes that leave those around them."""
    found = []
    dark = [name for name, image in zip(domain.image_names, domain.images, strict=True) if image.max() <= _DARK]
    if dark:
        found.append(
            f"domain '{domain.name}': {len(dark)} of {len(domain)} images, such as {dark[0]}, are almost black, as "
            "where a file of 16 bits uses 12: say which values are black and white, by data.intensity={minmax: true} "
            "or {window: [LOW, HIGH]}"
        )
    if domain.masks is None:
        return found
    for name, values in domain.classes.items():
        at_border = [
            image
            for image, mask in zip(domain.image_names, domain.masks, strict=True)
            if np.isin(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]), values).any()
        ]
        if 0 < len(at_border) <= _RARE * len(domain):
            found.append(
                f"domain '{domain.name}': class '{name}' touches the border in {len(at_border)} of {len(domain)} "
                f"images, such as {at_border[0]}: is it cut?"
            )
    for inner, outer in _nested(domain.classes):
        leaving = [
            image
            for image, mask in zip(domain.image_names, domain.masks, strict=True)
            if _open_share(np.isin(mask, domain.classes[inner]), np.isin(mask, domain.classes[outer])) > _OPEN
        ]
        if leaving:
            found.append(
                f"domain '{domain.name}': class '{inner}' lies outside the rest of class '{outer}' in {len(leaving)} "
                f"of {len(domain)} images, such as {leaving[0]}: look at their masks"
            )
    return found


def duplicates(domains: Sequence[Domain]) -> list[str]:
    """Sentences on images that two domains share, by a hash of their grey gradients and then by their grey values."""
    thumbnails = {domain.name: _thumbnails(domain.images) for domain in domains}
    hashes = {name: _hashes(images) for name, images in thumbnails.items()}
    empty = {name: _empty(images) for name, images in thumbnails.items()}
    found = []
    for first, second in combinations(domains, 2):
        bits = (64 - hashes[first.name] @ hashes[second.name].T) / 2  # that differ
        pairs = [
            (int(a), int(b))
            for a, b in np.argwhere((bits <= _BITS) & ~empty[first.name][:, None] & ~empty[second.name])
            if np.abs(thumbnails[first.name][a] - thumbnails[second.name][b]).mean() <= _GREY
        ]
        if pairs:
            a, b = pairs[0]
            found.append(
                f"domains '{first.name}' and '{second.name}' share {len({a for a, _ in pairs})} images, such as "
                f"{first.image_names[a]} and {second.image_names[b]}: a target must not hold images of the source"
            )
    return found


def _nested(classes: Mapping[str, Sequence[int]]) -> list[tuple[str, str]]:
    """Pairs of a class and another that holds all of it and more."""
    return [(a, b) for a in classes for b in classes if set(classes[a]) < set(classes[b])]


def _open_share(inner: np.ndarray, outer: np.ndarray) -> float:
    """Share of the contour of a region that has no pixel of the outer class beyond it."""
    steps = [(slice(1, None), slice(None)), (slice(None, -1), slice(None))]
    steps += [(columns, rows) for rows, columns in steps]
    contour = beyond = 0
    for (rows, columns), (other_rows, other_columns) in zip(
        steps, (steps[1], steps[0], steps[3], steps[2]), strict=True
    ):
        edge = inner[rows, columns] & ~inner[other_rows, other_columns]
        contour += int(edge.sum())
        beyond += int((edge & ~outer[other_rows, other_columns]).sum())
    return beyond / contour if contour else 0.0


def _thumbnails(images: np.ndarray | Ragged) -> np.ndarray:
    """Grey pictures ``[n, side, side]`` of pixels at equal distances."""
    thumbnails = []
    for image in images:
        rows, columns = (np.arange(_SIDE) * length // _SIDE for length in image.shape[:2])
        thumbnails.append(np.asarray(image[rows[:, None], columns]).astype(np.float32).mean(axis=-1))
    return np.stack(thumbnails)


def _empty(thumbnails: np.ndarray) -> np.ndarray:
    """Which pictures are a copy, as copies are told, of any picture of one grey level, so black ones: bool ``[n]``."""
    means = thumbnails.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.abs(thumbnails - means).mean(axis=(1, 2)) <= _GREY)


def _hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Whether a picture becomes brighter to the right in 8 x 8 places: float32 ``[n, 64]`` of 1 and -1."""
    for axis, count in ((1, 8), (2, 9)):
        starts = np.arange(count) * thumbnails.shape[axis] // count
        sizes = np.diff([*starts, thumbnails.shape[axis]]).reshape([-1 if each == axis else 1 for each in range(3)])
        thumbnails = np.add.reduceat(thumbnails, starts, axis) / sizes
    brighter = thumbnails[:, :, 1:] > thumbnails[:, :, :-1]
    return np.where(brighter, 1, -1).reshape(len(thumbnails), 64).astype(np.float32)
