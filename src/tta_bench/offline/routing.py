"""Which of several source models an image is adapted from: that of the centre whose images look most like it.

Each source model measures features of an image, and a Gaussian of the same features of its own domain's images says how
far the image is from its centre (the inference of González et al., MICCAI 2022). The route of an image depends on that
image alone. Of the images of a source nothing but its Gaussian is at hand at test time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.data.held_out import tested
from tta_bench.data.streams import StreamImage
from tta_bench.models.checkpoint import SourceModel
from tta_bench.models.first_features import first_features
from tta_bench.models.placement import copied_to
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Images
from tta_bench.ops.gaussians import Gaussian, fit, mahalanobis
from tta_bench.ops.geometry import unstacked
from tta_bench.runtime.numerics import numerics
from tta_bench.schema import RunConfig

log = logging.getLogger(__name__)

COLUMN = "distance"
"""Of ``per_image.csv``: squared distance to the nearest centre as a multiple of its threshold, an out-of-distribution
score. Above 1 an image is further away than images of that centre are."""


@dataclass(frozen=True)
class Routes:
    """Where every test image goes.

    Attributes:
        models: centre -> its source model.
        taken: target and index -> the centre and :data:`COLUMN`.
    """

    models: Mapping[str, SourceModel]
    taken: Mapping[tuple[str, int], tuple[str, float]]

    def of(self, place: StreamImage) -> tuple[str, float]:
        """The centre of an image, and its :data:`COLUMN`."""
        return self.taken[place.domain, place.index]

    def leads(self, centre: str, place: StreamImage) -> bool:
        """Whether an image goes to this centre."""
        return self.of(place)[0] == centre

    def to(self, change: Callable[[SourceModel], SourceModel]) -> Routes:
        """The same routes to changed models."""
        return replace(self, models={name: change(model) for name, model in self.models.items()})

    def counts(self, centre: str) -> dict[str, int]:
        """Target -> how many of its test images go to a centre."""
        return dict(Counter(target for (target, _), (name, _) in self.taken.items() if name == centre))


@dataclass(frozen=True)
class Centre:
    """What is known of the images that a model was trained on.

    Attributes:
        eye: whose features tell images apart, in eval mode on the device to use.
        history: Gaussians of the features that it has of these images, stage by stage.
    """

    eye: SegmentationModel
    history: Sequence[Gaussian]


def nearest(distances: Tensor) -> list[int]:
    """Which model each image is nearest to, the first of several: ``[N, models]`` -> ``N`` numbers."""
    return distances.argmin(1).tolist()


def features_of(model: SegmentationModel, domain: Domain, indices: Sequence[int]) -> Tensor:
    """:func:`first_features` of images one by one, of cut ones the means over their tiles: ``[N, C]`` on the CPU.

    Args:
        model: in eval mode on the device to use.
        domain: of the images.
        indices: of them.
    """
    images, device = Images(domain, indices, model.preprocessing), next(model.parameters()).device
    rows = []
    for k, index in enumerate(indices):
        tiles = unstacked(images[k][None].to(device), domain.tiles(index))
        rows.append(first_features(model, tiles).mean(0))
    return torch.stack(rows).cpu()


def routes_of(
    config: RunConfig,
    models: Mapping[str, SourceModel],
    domains: Mapping[str, Domain],
    device: torch.device,
) -> Routes:
    """The routes of all test images of a run.

    Args:
        config: with its targets.
        models: centre -> its source model.
        domains: the prepared centres and targets.
        device: to run on.

    Raises:
        UserError: a network without normalisation layers.
    """
    centres = {}
    with numerics(device):
        for centre, source in models.items():
            eye = copied_to(device, source.model)
            centres[centre] = Centre(eye, [fit(features_of(eye, domains[centre], range(len(domains[centre]))))])
    return routed(config, models, centres, domains, device)


def distance_to(history: Sequence[Gaussian], features: Tensor) -> Tensor:
    """Mean squared distance of images ``[N, C]`` to the Gaussians of all images that a model has seen: ``[N]``.

    The mean, so that a model that has seen more stages is not further away for that.
    """
    return torch.stack([mahalanobis(features, gaussian) for gaussian in history]).mean(0)


def threshold_of(history: Sequence[Gaussian]) -> float:
    """The :func:`distance_to` from which images are of another distribution."""
    return sum(gaussian.threshold for gaussian in history) / len(history)


def routed(
    config: RunConfig,
    models: Mapping[str, SourceModel],
    centres: Mapping[str, Centre],
    domains: Mapping[str, Domain],
    device: torch.device,
) -> Routes:
    """The routes of all test images of a run, to models whose centres are known.

    Args:
        config: with its targets.
        models: centre -> its model.
        centres: centre -> what is known of its images; features of an eye that they share are taken once.
        domains: the prepared targets.
        device: to run on.

    Raises:
        UserError: a network without normalisation layers.
    """
    assert config.target is not None
    tests = {name: tested(name, len(domains[name]), config.protocol.evaluation) for name in config.target}
    places = [(name, index) for name, indices in tests.items() for index in indices]
    with numerics(device):
        seen = {
            eye: torch.cat([features_of(eye, domains[name], indices) for name, indices in tests.items()])
            for eye in dict.fromkeys(centre.eye for centre in centres.values())
        }
    names, known = list(models), [centres[name] for name in models]
    to_all = torch.stack([distance_to(centre.history, seen[centre.eye]) for centre in known], 1)
    thresholds = [threshold_of(centre.history) for centre in known]
    taken = {
        place: (names[number], float(to_all[row, number]) / thresholds[number])
        for row, (place, number) in enumerate(zip(places, nearest(to_all), strict=True))
    }
    routes = Routes(models, taken)
    for name in config.target:
        shares = ", ".join(f"{routes.counts(centre).get(name, 0)} to {centre}" for centre in models)
        far = sum(distance > 1 for (target, _), (_, distance) in taken.items() if target == name)
        log.info("routes of %s: %s; %d images are unlike all of these centres", name, shares, far)
    return routes
