"""Continual training: a source model is trained on one domain after another, and no image is seen again.

What is left of a stage is its model, and beside the file of that what later stages may need of its images: a Gaussian
of their features where a pool of models is kept (González et al., MICCAI 2022), or how much each parameter matters.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.data.held_out import trained_on, usable
from tta_bench.errors import UserError
from tta_bench.models.checkpoint import SourceModel
from tta_bench.offline.access import IMPORTANCE, Images, Labelled, Labels
from tta_bench.offline.base import SYSTEMS, System
from tta_bench.offline.beside import beside, read_beside
from tta_bench.offline.ewc import importance
from tta_bench.offline.routing import Routes, distance_to, features_of, routed, threshold_of
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
    kind, (alone,) = SYSTEMS.get(config.adapt["name"]), config.of_each_source()
    begin = partial(_start, config, kind, code, device)
    keep = partial(_kept, config, kind, code, device)
    pool: Pool = (Member(config.stages[0], first, keep(first, domains[config.stages[0]], None)),)
    for number, stage in enumerate(config.stages[1:], 1):
        domain, before = domains[stage], config.stages[:number]
        start, new = begin(pool, domain)
        seen = joined([trained_on(config, domains[name]) for name in before]) if kind.card.needs_source else None
        told = follow(stage) if follow is not None else None
        trained = adapted_model(alone, start.model, domain, seen, seed, code, device, told)
        pool = extended(pool, start, stage, trained, keep(trained, domain, start.model), new)
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
    models, histories = ({each.name: getattr(each, what) for each in pool} for what in ("model", "history"))
    return {}, routed(config, models, histories, domains, device)


def _start(
    config: RunConfig, kind: type[System], code: str, device: torch.device, pool: Pool, domain: Domain
) -> tuple[Member, bool]:
    """The member that a stage trains, and whether a copy of it; its distances are kept, as its images are not."""
    if kind.grows == "never":
        return pool[0], False
    indices = usable(domain.name, len(domain), config.protocol.evaluation)

    def measure(member: Member) -> dict[str, Tensor]:
        return {"mean": distance_to(member.history, _features(member.model, domain, indices, device)).mean()}

    distances = {}
    for each in pool:
        key = f"{domain.fingerprint} {indices} {code} {[gaussian.typical for gaussian in each.history]}"
        name = f"distance_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        distances[each.name] = float(beside(each.model, name, key, partial(measure, each))["mean"])
    nearest, far = nearest_member(pool, distances)
    told = ", ".join(f"{each.name} {distances[each.name] / threshold_of(each.history):.2f}" for each in pool)
    log.info("stage %s: distance to each model as a multiple of its threshold: %s", domain.name, told)
    return nearest, far or kind.grows == "always"


def _features(model: SourceModel, domain: Domain, indices: Sequence[int], device: torch.device) -> Tensor:
    with numerics(device):
        return features_of(copy.deepcopy(model.model).to(device).eval(), domain, indices)


def _kept(
    config: RunConfig,
    kind: type[System],
    code: str,
    device: torch.device,
    model: SourceModel,
    domain: Domain,
    before: SourceModel | None,
) -> tuple[Gaussian, ...]:
    """Keep what later stages need of the images of a stage; returns their Gaussian where there is a pool."""
    indices = usable(domain.name, len(domain), config.protocol.evaluation)
    key = f"{domain.fingerprint} {indices} {code}"

    def weigh() -> dict[str, Tensor]:
        images = Images(domain, indices, model.model.preprocessing)
        with numerics(device):
            found = importance(copy.deepcopy(model.model).to(device).eval(), Labelled(images, Labels(domain, indices)))
        earlier = read_beside(before.path, IMPORTANCE) if before is not None else {}
        return {name: value + earlier[name] if earlier else value for name, value in found.items()}

    if "source_importance" in kind.card.needs:
        beside(model, IMPORTANCE, key, weigh)
    if kind.grows == "never":
        return ()
    if len(indices) < 2:
        raise UserError(f"stages={domain.name} leaves {len(indices)} images to train on: a pool of models needs 2")
    return (Gaussian.of(beside(model, CENTRE, key, lambda: fit(_features(model, domain, indices, device)).content())),)
