"""Clusters of images in the feature space of a network, and those of two sites as pairs: plain functions on tensors.

Everything is computed in double precision on the CPU, so that one seed gives the same clusters on every device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

EXAGGERATION, EXAGGERATED, ITERATIONS = 12.0, 250, 1000
"""Of t-SNE: factor of the attraction, in how many iterations, and all iterations; as scikit-learn has them."""

BISECTIONS = 60
"""Of a bandwidth, down to the last digit of a double."""

ROUNDS = 300
"""Of k-means, which ends earlier once no image changes its cluster."""


def principal_components(points: Tensor, components: int) -> Tensor:
    """Coordinates of ``[n, d]`` points on their first axes, ``[n, at most components]``; ``d`` may be very large.

    Of every axis the sign is that with which its largest coordinate is positive.
    """
    centred = points - points.mean(0)
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    kept = min(components, len(points) - 1, points.shape[1])
    values, vectors = values.flip(0)[:kept].clamp(min=0), vectors.flip(1)[:, :kept]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0) * values.sqrt()


def neighbourhoods(points: Tensor, perplexity: float) -> Tensor:
    """Joint probabilities of t-SNE, ``[n, n]``: symmetric, without a diagonal, and 1 in sum.

    Args:
        points: float64 ``[n, d]``, at least 3.
        perplexity: effective number of neighbours, below ``n - 1``.
    """
    distances = torch.cdist(points, points) ** 2
    itself = torch.eye(len(points), dtype=torch.bool)
    distances = distances / distances[~itself].mean().clamp(min=1e-300)
    low, high = torch.full((len(points), 1), -30.0).double(), torch.full((len(points), 1), 30.0).double()
    for _ in range(BISECTIONS):  # of the logarithm of the precision
        middle = (low + high) / 2
        logits = (-distances * middle.exp()).masked_fill(itself, -torch.inf)
        conditional = torch.softmax(logits, 1)
        entropy = torch.special.entr(conditional).sum(1, keepdim=True)
        wide = entropy > torch.tensor(perplexity).double().log()
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return (conditional + conditional.T) / (2 * len(points))


def embedded(points: Tensor, perplexity: float = 30.0) -> Tensor:
    """Exact t-SNE (van der Maaten & Hinton, 2008) in two dimensions, from the first two axes on: nothing is drawn.

    Args:
        points: float64 ``[n, d]``, their principal components, at least 4.
        perplexity: of few points at most a third of them.

    Returns:
        ``[n, 2]``.
    """
    count = len(points)
    joint = neighbourhoods(points, min(perplexity, (count - 1) / 3)).clamp(min=1e-12)
    places = torch.zeros(count, 2).double()
    places[:, : points.shape[1]] = points[:, :2]
    places = places / places[:, 0].std().clamp(min=1e-300) * 1e-4
    speed, gains = torch.zeros_like(places), torch.ones_like(places)
    rate = max(count / EXAGGERATION / 4, 50.0)
    for iteration in range(ITERATIONS):
        early = iteration < EXAGGERATED
        kernel = 1 / (1 + torch.cdist(places, places) ** 2)
        kernel.fill_diagonal_(0)
        pull = ((EXAGGERATION if early else 1.0) * joint - (kernel / kernel.sum()).clamp(min=1e-12)) * kernel
        gradient = 4 * (pull.sum(1, keepdim=True) * places - pull @ places)
        gains = torch.where(speed * gradient < 0, gains + 0.2, gains * 0.8).clamp(min=0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gains * gradient
        places = places + speed
    return places


def k_means(points: Tensor, k: int, generator: torch.Generator, starts: int = 10) -> tuple[Tensor, Tensor]:
    """The best of several runs of k-means, each from centres that are drawn far from each other (k-means++).

    Args:
        points: ``[n, d]``.
        k: number of clusters, at most ``n``.
        generator: of the draws.
        starts: number of runs.

    Returns:
        Cluster of each point, int ``[n]``, and the centres ``[k, d]``.
    """
    runs = [_lloyd(points, torch.stack([*_far_apart(points, k, generator)])) for _ in range(starts)]
    return min(runs, key=lambda run: float(((points - run[1][run[0]]) ** 2).sum()))


def _far_apart(points: Tensor, k: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Points, the first at random and each further one in proportion to its squared distance to those before."""
    squares = torch.full((len(points),), torch.inf).double()
    for _ in range(k):
        weights = squares if 0 < squares.sum() < torch.inf else torch.ones_like(squares)
        place = int(torch.multinomial(weights, 1, generator=generator))
        yield points[place]
        squares = torch.minimum(squares, ((points - points[place]) ** 2).sum(1).double())


def _lloyd(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Assignment and means in turn; the centre of a cluster without a point stays."""
    clusters = torch.cdist(points, centres).argmin(1)
    for _ in range(ROUNDS):
        centres = means(points, clusters, centres)
        before, clusters = clusters, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, clusters):
            break
    return clusters, centres


def means(points: Tensor, clusters: Tensor, otherwise: Tensor) -> Tensor:
    """Mean of the points of each cluster, ``[k, d]``; that of ``otherwise`` where it has none."""
    members = torch.nn.functional.one_hot(clusters, len(otherwise)).to(points)
    counts = members.sum(0)[:, None]
    return torch.where(counts > 0, members.T @ points / counts.clamp(min=1), otherwise)


def matched(target: Tensor, source: Tensor) -> Tensor:
    """For each target centre its source centre, one to one, with the least sum of squared distances.

    Args:
        target: ``[k, d]``.
        source: ``[k, d]``.

    Returns:
        int ``[k]``.
    """
    from scipy.optimize import linear_sum_assignment  # a plan has no use for it

    _, columns = linear_sum_assignment((torch.cdist(target.double(), source.double()) ** 2).numpy())
    return torch.from_numpy(columns)


def alignment(features: Tensor, clusters: Tensor, centres: Tensor) -> Tensor:
    """Sum over clusters of the squared distance between the mean of a batch's images in it and its fixed centre.

    A cluster without an image in the batch adds nothing.

    Args:
        features: of the batch, ``[N, d]``.
        clusters: of its images, int ``[N]``.
        centres: ``[k, d]``.
    """
    return ((means(features, clusters, centres) - centres) ** 2).sum()
