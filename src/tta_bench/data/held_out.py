"""A split of a target: images that may be used before the test, and those that every row is tested on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal

import torch

from tta_bench.data.domain import Domain
from tta_bench.ops.draws import seed_of
from tta_bench.schema import RunConfig


def split(name: str, count: int) -> tuple[list[int], list[int]]:
    """Halve the images of a domain, a function of its name and size alone: the same for all rows, seeds and machines.

    Returns:
        Those that may be used before the test and the held-out ones, each in ascending order; of an odd number more
        are held out, and of a single image none is left to use.
    """
    generator = torch.Generator().manual_seed(seed_of("held_out", name))
    order = torch.randperm(count, generator=generator).tolist()
    return sorted(order[: count // 2]), sorted(order[count // 2 :])


def tested(name: str, count: int, evaluation: Literal["held_out"] | None) -> list[int]:
    """The images of a domain that a protocol tests on, in ascending order: all, or those held out."""
    return split(name, count)[1] if evaluation == "held_out" else list(range(count))


def usable(name: str, count: int, evaluation: Literal["held_out"] | None) -> list[int]:
    """Those that may be used before the test: all, which are tested on too, or those that are not held out."""
    return split(name, count)[0] if evaluation == "held_out" else list(range(count))


def trained_on(config: RunConfig, domain: Domain) -> Domain:
    """What of its own domain a run's source model is trained on: all, or before further stages what is not tested on.

    A part has a fingerprint of its own.
    """
    if not config.stages:
        return domain
    indices = usable(domain.name, len(domain), config.protocol.evaluation)
    fingerprint = hashlib.sha256(f"{domain.fingerprint} {indices}".encode()).hexdigest()
    return replace(domain.chosen(indices), fingerprint=fingerprint)
