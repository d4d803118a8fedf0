"""Which domains a run adapts to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tta_bench.data.readers.base import available_domains
from tta_bench.errors import UserError, nearest
from tta_bench.offline.options import card_of
from tta_bench.runtime.names import find
from tta_bench.schema import DataConfig, RunConfig

ALL = "all"
"""Stages: every domain, in the order of the data set."""


def with_targets(config: RunConfig) -> RunConfig:
    """The configuration with its targets filled in: all other domains, if none are named; none for a search.

    Raises:
        UserError: all names that the data set does not have, and a set without another domain.
    """
    # A search and some systems need the images of the source, also beside a given source model.
    card = card_of(config.adapt)
    images = config.tune or (card is not None and card.needs_source)
    faults = domain_faults(config.data, config.source, config.target, config.checkpoint, config.route, images=images)
    available = available_domains(config.data)
    stages, more = _stages(config, available)
    if faults or more:
        raise UserError([*faults, *more])
    source, *route = (find(name, available) or name for name in config.sources)
    if config.tune:
        return config.model_copy(update={"source": source, "target": ()})
    targets = tuple(find(name, available) or name for name in config.target or ()) or tuple(
        name for name in stages or available if stages or name not in (source, *route)
    )
    if not targets:
        raise UserError(f"{config.data.root} has no domain besides source={','.join(config.sources)} to adapt to")
    apart = (targets, stages) if stages else ((source, *route, *targets),)
    twice = [name for names in apart for name, count in Counter(names).items() if count > 1]
    if twice:  # in composed and in decomposed characters, or the schema would have found it
        raise UserError(f"{twice[0]} is named more than once in source, route, stages and target: name it once")
    before = stages[: stages.index(source) + 1] if stages else None
    return config.model_copy(
        update={"source": source, "route": tuple(route) or None, "stages": before, "target": targets}
    )


def _stages(config: RunConfig, available: Sequence[str]) -> tuple[tuple[str, ...] | None, list[str]]:
    """The stages by the names that the data set has, and a sentence for each fault."""
    if config.stages is None:
        return None, []
    everything = config.stages == (ALL,) and ALL not in available
    names = tuple(available) if everything else tuple(find(name, available) or name for name in config.stages)
    faults = [f"unknown stages={name}: {nearest(name, available)}" for name in names if name not in available]
    if find(config.source, names) is None:
        faults.append(
            f"source={config.source} is the stage after which is tested, and stages={','.join(names)} has no such "
            "domain: name one of them"
        )
    return names, faults


def domain_faults(
    data: DataConfig,
    source: str,
    targets: Sequence[str] | None,
    checkpoint: Path | str | None,
    route: Sequence[str] | None = None,
    *,
    images: bool = False,
) -> list[str]:
    """A sentence for every domain that the data set does not have, and for a checkpoint that is not there.

    With a given source model its own images are not needed, unless ``images`` says so, and its name may be any.

    Raises:
        UserError: the data set cannot be looked at.
    """
    available = available_domains(data)
    wanted = [(role, str(name)) for role, names in (("route", route), ("target", targets)) for name in names or ()]
    if checkpoint is None or images:
        wanted.insert(0, ("source", str(source)))
    faults = [
        f"unknown {role}={name}: {nearest(name, available)}" for role, name in wanted if find(name, available) is None
    ]
    if checkpoint is not None and not Path(checkpoint).expanduser().is_file():
        faults.append(f"checkpoint={checkpoint} is no file: check the path; without checkpoint= one is trained")
    return faults
