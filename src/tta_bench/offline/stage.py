"""The adapted model of a target: made once, kept under a hash of everything that determines it."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from tta_bench.data.domain import Domain
from tta_bench.data.held_out import usable
from tta_bench.errors import UserError
from tta_bench.models.checkpoint import SourceModel, read_description, save_checkpoint
from tta_bench.models.checkpoint.made import made_once
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.models.spottuned import SpotTuned
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.base import SYSTEMS, System
from tta_bench.offline.options import identified_system, system_options
from tta_bench.records.merging import ADAPTED, KEY
from tta_bench.records.snapshots import ProgressFile
from tta_bench.runtime.files import write_atomically
from tta_bench.runtime.numerics import numerics
from tta_bench.runtime.random_state import isolated_random_state
from tta_bench.runtime.signals import at_stake, check
from tta_bench.schema import RunConfig

log = logging.getLogger(__name__)


Told = list[dict[str, float]]
"""What was told of every epoch so far."""

Follow = Callable[[Path, bool], AbstractContextManager[Callable[[int, Mapping[str, float]], None]]]
"""``follow(folder, going_on)``: within it the stage is told of, epoch by epoch, and complete at its end."""


@dataclass(frozen=True)
class Home:
    """What the source model has not seen of its own domain, on which an adapted model tells what it has retained.

    Attributes:
        unseen: those images; none where it is not known which they are.
        dice: mean Dice of each class, percent, of a model on them.
    """

    unseen: Sequence[int]
    dice: Callable[[SegmentationModel], Mapping[str, float]]


@dataclass(frozen=True)
class Progressed:
    """How far a stage has come."""

    told: Told
    state: dict[str, Any]  # of the system

    def content(self) -> dict[str, Any]:
        """The same as tensors and plain values."""
        return dict(vars(self))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Progressed:
        """The one with this content."""
        return cls(**content)


def refuse_small(config: RunConfig, targets: Sequence[Domain]) -> None:
    """Refuse targets that have fewer images before the test than ``config.adapt`` needs, or labels.

    Raises:
        UserError: with a sentence for each.
    """
    if config.adapt is None:
        return
    labels, evaluation = getattr(system_options(config.adapt), "labels", 0), config.protocol.evaluation
    needed = 1 if labels == "all" else max(labels, 1)
    faults = []
    for target in targets:
        there = len(usable(target.name, len(target), evaluation))
        if there < needed:
            others = f" of {len(target)}, the others being held out" if evaluation else ""
            fewer = ", lower adapt.labels" if needed > 1 else ""
            faults.append(
                f"adapt={config.adapt['name']} needs {needed} images of target={target.name} before the test, and "
                f"there are {there}{others}: add images, raise data.limit{fewer}, or leave the target out"
            )
    if faults:
        raise UserError(faults)


def adapted_model(
    config: RunConfig,
    source: SourceModel,
    target: Domain,
    source_domain: Domain | None,
    seed: int,
    code: str,
    device: torch.device,
    follow: Follow | None = None,
    home: Home | None = None,
) -> SourceModel:
    """What ``config.adapt`` makes of a source model for a target: loaded if it was made before, else made now.

    It lives in ``results_root/adapted_models/<key>/model.ckpt``. A killed stage goes on after its last kept epoch and
    gives the same weights as one that was not killed. The global random state is as before afterwards.

    Args:
        config: the run.
        source: the source model; stays as it is.
        target: the prepared domain to adapt to.
        source_domain: where the system's card asks for it.
        seed: of the system's random draws.
        code: digest of the code that decides the weights.
        device: to run on.
        follow: opens what follows the stage, if there is one.
        home: what the source model has not seen of its own domain, where its images are there.

    Raises:
        UserError: a system that cannot work on the model, or one that diverges.
    """
    grounds = grounds_of(config, source, target, source_domain, seed, home)
    key = _key(config, source, grounds, code)
    folder = config.results_root / ADAPTED / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / "model.ckpt"

    def make() -> None:
        progress = ProgressFile(folder / "snapshot.pt", key, Progressed)
        with at_stake():
            write_atomically(folder / KEY, json.dumps(key, indent=1) + "\n")
            model = run_system(config, source, grounds, seed, device, progress, folder, follow)
            with numerics(device):
                retained = home.dice(model.to(device)) if home is not None and home.unseen else None
            _save(path, model, source, retained)
        progress.path.unlink(missing_ok=True)

    return made_once(path, config, make, doing="makes the same adapted model", again="adapting again")


def grounds_of(
    config: RunConfig, source: SourceModel, target: Domain, source_domain: Domain | None, seed: int, home: Home | None
) -> Grounds:
    """Which images and labels a system may be handed; arguments as of :func:`adapted_model`."""
    assert config.adapt is not None
    indices = usable(target.name, len(target), config.protocol.evaluation)
    asked = getattr(system_options(config.adapt), "labels", 0)
    labels = len(indices) if asked == "all" else asked
    unseen = frozenset(home.unseen) if home is not None else frozenset()
    of_source = [k for k in range(len(source_domain)) if k not in unseen] if source_domain is not None else None
    preprocessing = source.model.preprocessing
    return Grounds(target, indices, labels, source_domain, preprocessing, seed, of_source, source.path)


def _key(config: RunConfig, source: SourceModel, grounds: Grounds, code: str) -> dict[str, Any]:
    """All that determines the weights, as plain values."""
    assert config.adapt is not None
    stage = stage_of(config, grounds.seed)
    return {
        "the system": stage["the system"],
        "the source model": source.sha256,
        "the target": [grounds.target.fingerprint, config.protocol.evaluation],
        "the source domain": grounds.source.fingerprint if grounds.source is not None else None,
        "the seed": stage["the seed"],
        "the code": code,
    }


def stage_of(config: RunConfig, seed: int) -> dict[str, Any]:
    """What a run says of its adapted models, whatever their images and the source model."""
    assert config.adapt is not None
    card = SYSTEMS.get(config.adapt["name"]).card
    system = identified_system(config.adapt)
    return {"the system": system, "the seed": seed if card.stochastic else None}


def serves_stage(folder: Path, stages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an adapted model, made or half made, may be one of these runs' (:func:`stage_of`)."""
    key = _read_key(folder)
    asked = json.loads(json.dumps(list(stages)))
    return any(all(key.get(name) == value for name, value in stage.items()) for stage in asked)


def made_of(folder: Path) -> str | None:
    """SHA-256 of the file of the model that an adapted one was made of, in a stage before or as a source model."""
    return _read_key(folder).get("the source model")


def _read_key(folder: Path) -> dict[str, Any]:
    """What determines an adapted model; empty where it cannot be read."""
    with suppress(OSError, ValueError):
        key = json.loads((folder / KEY).read_bytes())
        return key if isinstance(key, dict) else {}
    return {}


def run_system(
    config: RunConfig,
    source: SourceModel,
    grounds: Grounds,
    seed: int,
    device: torch.device,
    progress: ProgressFile[Progressed],
    folder: Path,
    follow: Follow | None,
) -> SegmentationModel:
    """The system, epoch by epoch; arguments as of :func:`adapted_model`."""
    assert config.adapt is not None
    name, options = config.adapt["name"], system_options(config.adapt)
    kind = SYSTEMS.get(name)
    resumed = progress.read()
    title = f"{name} {source.domain} -> {grounds.target.name}"
    following = follow(folder, resumed is not None) if follow is not None else nullcontext(lambda epoch, values: None)
    with isolated_random_state(seed), numerics(device), following as tell, Progress(transient=True) as bar:
        model = copy.deepcopy(source.model).to(device).eval()
        system: System = kind(model, Access(kind.card, grounds), options, seed)
        told: Told = []
        if resumed is not None:
            system.load_state_dict(resumed.state)
            told = list(resumed.told)
            log.info("%s: going on after epoch %d of %d", title, len(told), system.epochs)
        task = bar.add_task(title, total=system.epochs, completed=len(told))
        for epoch, values in enumerate(told, 1):
            tell(epoch, values)
        for number in range(len(told), system.epochs):
            check()
            told.append(dict(system.epoch(number)))
            tell(number + 1, told[-1])
            bar.advance(task)
            progress.keep(lambda: Progressed(told, system.state_dict()))
        log.info("%s: %s", title, ", ".join(f"{key} {value:.4g}" for key, value in told[-1].items()))
        return system.adapted().eval().cpu()


def _save(path: Path, model: SegmentationModel, source: SourceModel, retained: Mapping[str, float] | None) -> None:
    """As a source model of the same domain, which it stands in for; ``retained`` is its in-domain Dice."""
    about = read_description(source.path)
    save_checkpoint(
        path,
        model.state_dict(),
        architecture={**about.architecture, "branches": list(model.branches)},
        preprocessing=model.preprocessing,
        classes=source.classes,
        spottuned=model.layers if isinstance(model, SpotTuned) else None,
        activation=model.activation,
        image_size=source.image_size,
        fit=about.fit,
        score_at=about.score_at,
        intensity=about.intensity,
        domain=source.domain,
        fingerprint=source.fingerprint,
        training=source.training,
        dice_in_domain_per_class=retained,
    )
