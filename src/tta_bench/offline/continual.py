"""Continual training: a source model is trained on one domain after another, and no image is seen again.

What is left of a stage is its model, and beside the file of that what later stages may need of its images: a Gaussian
of their features where a pool of models is kept (González et al., MICCAI 2022), or how much each parameter matters.

The features of all stages are those of the first stage's model: further training moves the first layers, and what they
gave before is no measure of what they give afterwards.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.data.held_out import trained_on, usable
from tta_bench.errors import UserError
from tta_bench.models.checkpoint import SourceModel
from tta_bench.models.placement import copied_to
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import IMPORTANCE, Images, Labelled, Labels
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.beside import beside, read_beside
from tta_bench.offline.ewc import importance
from tta_bench.offline.routing import Centre, Routes, distance_to, features_of, routed, threshold_of
from tta_bench.offline.stage import Follow, adapted_model
from tta_bench.ops.gaussians import Gaussian, fit
from tta_bench.runtime.numerics import numerics
from tta_bench.schema import RunConfig

log = logging.getLogger(__name__)

CENTRE = "centre"
"""File of the Gaussian of a stage's images beside its model."""


@dataclass(frozen=True)
class Member:
    """A model of a pool.

    Attributes:
        name: the stage that has added it.
        model: as it was trained last.
        history: a Gaussian of every stage that it was trained on, those of the model that it is a copy of first.
    """

    name: str
    model: SourceModel
    history: tuple[Gaussian, ...] = ()


Pool = tuple[Member, ...]


def nearest_member(pool: Pool, distances: Mapping[str, float]) -> tuple[Member, bool]:
    """The member that a stage's images are nearest to, and whether they are far from it all the same.

    Args:
        pool: not empty.
        distances: name of a member -> mean distance of the images to its history.
    """
    nearest = min(pool, key=lambda member: distances[member.name])
    return nearest, distances[nearest.name] >= threshold_of(nearest.history)


def extended(pool: Pool, start: Member, stage: str, trained: SourceModel, left: Sequence[Gaussian], new: bool) -> Pool:
    """The pool after a stage; members are never changed in place.

    Args:
        pool: before.
        start: the member whose model was trained on.
        stage: name of the stage.
        trained: the model after the stage.
        left: the Gaussian of its images, where one is kept.
        new: whether it is a further member, and ``start`` stays; else it takes the place of ``start``.
    """
    member = Member(stage if new else start.name, trained, (*start.history, *left))
    return (*pool, member) if new else tuple(member if each is start else each for each in pool)


def joined(domains: Sequence[Domain]) -> Domain:
    """Several domains as one to train on."""
    names = tuple(f"{domain.name}/{name}" for domain in domains for name in domain.image_names)
    masks = [np.stack([domain.mask(index) for index in range(len(domain))]) for domain in domains]
    fingerprint = hashlib.sha256(" ".join(domain.fingerprint for domain in domains).encode()).hexdigest()
    return replace(
        domains[0],
        name="+".join(domain.name for domain in domains),
        image_names=names,
        images=np.concatenate([np.asarray(domain.images) for domain in domains]),
        masks=np.concatenate(masks),
        truths=None,
        fingerprint=fingerprint,
        sizes=tuple(size for domain in domains for size in domain.sizes),
        cases=None,
        spacings=None,
    )


class Traces:
    """What the stages of a run leave, so that their images need not be seen again; each trace is made once.

    Args:
        config: with ``stages`` and ``adapt``.
        first: the model of the first stage.
        code: digest of the code that decides the weights.
        device: to run on.
    """

    def __init__(self, config: RunConfig, first: SourceModel, code: str, device: torch.device) -> None:
        assert config.adapt is not None
        self.kind = SYSTEMS.get(config.adapt["name"])
        self._config, self._first, self._code, self._device = config, first, code, device

    @cached_property
    def _eye(self) -> SegmentationModel:
        return copied_to(self._device, self._first.model)

    def start(self, pool: Pool, domain: Domain) -> tuple[Member, bool]:
        """The member that a stage trains, and whether a copy of it."""
        if self.kind.grows == "never":
            return pool[0], False
        indices = self._usable(domain)

        def measure() -> dict[str, Tensor]:
            features = self._features(domain, indices)
            return {each.name: distance_to(each.history, features).mean() for each in pool}

        known = [(each.name, [gaussian.typical for gaussian in each.history]) for each in pool]
        key = f"{domain.fingerprint} {indices} {self._code} {known}"
        name = f"distances_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        distances = {of: float(each) for of, each in beside(self._first, name, key, measure).items()}
        nearest, far = nearest_member(pool, distances)
        told = ", ".join(f"{each.name} {distances[each.name] / threshold_of(each.history):.2f}" for each in pool)
        log.info("stage %s: distance to each model as a multiple of its threshold: %s", domain.name, told)
        return nearest, far or self.kind.grows == "always"

    def left(self, model: SourceModel, domain: Domain, before: SourceModel | None) -> tuple[Gaussian, ...]:
        """The Gaussian of a stage's images where there is a pool; beside the model is kept what later stages need.

        Args:
            model: after the stage.
            domain: of the stage.
            before: the model that the stage has trained; None in the first one.

        Raises:
            UserError: there are too few images for a Gaussian.
        """
        indices = self._usable(domain)
        key = f"{domain.fingerprint} {indices} {self._code}"

        def weigh() -> dict[str, Tensor]:
            labelled = Labelled(Images(domain, indices, model.model.preprocessing), Labels(domain, indices))
            with numerics(self._device):
                found = importance(copied_to(self._device, model.model), labelled)
            earlier = read_beside(before.path, IMPORTANCE) if before is not None else {}
            return {name: value + earlier[name] if earlier else value for name, value in found.items()}

        if "source_importance" in self.kind.card.needs:
            beside(model, IMPORTANCE, key, weigh)
        if self.kind.grows == "never":
            return ()
        if len(indices) < 2:
            raise UserError(f"stages={domain.name} leaves {len(indices)} images to train on: a pool of models needs 2")
        content = beside(model, CENTRE, key, lambda: fit(self._features(domain, indices)).content())
        return (Gaussian.of(content),)

    def _usable(self, domain: Domain) -> list[int]:
        return usable(domain.name, len(domain), self._config.protocol.evaluation)

    def _features(self, domain: Domain, indices: Sequence[int]) -> Tensor:
        with numerics(self._device):
            return features_of(self._eye, domain, indices)


def pool_after(
    config: RunConfig,
    first: SourceModel,
    domains: Mapping[str, Domain],
    seed: int,
    code: str,
    device: torch.device,
    follow: Callable[[str], Follow] | None = None,
) -> Pool:
    """The models after all stages of a run; each stage is read if it was trained before, by whichever run.

    Args:
        config: with ``stages`` and ``adapt``.
        first: the source model, trained on the first stage.
        domains: the prepared stages.
        seed: of the system's random draws.
        code: digest of the code that decides the weights.
        device: to run on.
        follow: stage -> what follows its training, if there is anything.

    Raises:
        UserError: as of :func:`tta_bench.offline.stage.adapted_model`.
    """
    assert config.stages
    assert config.adapt is not None
    (alone,) = config.of_each_source()
    traces = Traces(config, first, code, device)
    pool: Pool = (Member(config.stages[0], first, traces.left(first, domains[config.stages[0]], None)),)
    for number, stage in enumerate(config.stages[1:], 1):
        domain, before = domains[stage], config.stages[:number]
        start, new = traces.start(pool, domain)
        needs_source = traces.kind.card.needs_source
        seen = joined([trained_on(config, domains[name]) for name in before]) if needs_source else None
        told = follow(stage) if follow is not None else None
        trained = adapted_model(alone, start.model, domain, seen, seed, code, device, told)
        pool = extended(pool, start, stage, trained, traces.left(trained, domain, start.model), new)
        log.info("stage %s: %s of model %s", stage, "a copy" if new else "more training", start.name)
    return pool


def after_stages(
    config: RunConfig,
    first: SourceModel,
    domains: Mapping[str, Domain],
    seed: int,
    code: str,
    device: torch.device,
    follow: Callable[[str], Follow] | None = None,
) -> tuple[dict[str, SourceModel], Routes | None]:
    """What answers the test images after all stages: target -> the one model, or of a pool where each image goes.

    Arguments and errors as of :func:`pool_after`.
    """
    assert config.adapt is not None
    assert config.target is not None
    pool = pool_after(config, first, domains, seed, code, device, follow)
    if SYSTEMS.get(config.adapt["name"]).grows == "never":
        return dict.fromkeys(config.target, pool[0].model), None
    eye = copied_to(device, first.model)
    centres = {each.name: Centre(eye, each.history) for each in pool}
    return {}, routed(config, {each.name: each.model for each in pool}, centres, domains, device)
