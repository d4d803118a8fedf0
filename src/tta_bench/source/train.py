"""The source model of a domain: trained once, kept under a hash of everything that determines it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from tta_bench.data.domain import Domain
from tta_bench.errors import UserError
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import (
    Description,
    SourceModel,
    load_checkpoint,
    mean_dice,
    read_description,
    save_checkpoint,
)
from tta_bench.models.checkpoint.made import made_once
from tta_bench.models.checkpoint.optimizer import save_optimizer
from tta_bench.models.encoder_weights import digest, weights_file
from tta_bench.ops.geometry import Fit, ScoreAt
from tta_bench.ops.probabilities import Activation
from tta_bench.runtime.files import move_aside, temporaries, warn_once
from tta_bench.runtime.memory import refuse_impossible
from tta_bench.runtime.numerics import is_gpu, numerics, resolve_device
from tta_bench.runtime.random_state import isolated_random_state
from tta_bench.runtime.signals import at_stake
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file
from tta_bench.runtime.training_section import TrainingConfig
from tta_bench.schema import ModelConfig, RunConfig
from tta_bench.source.examination import examine, side_file
from tta_bench.source.held_out import divide, held_out_dice, in_domain_dice, split
from tta_bench.source.schedule import least_steps, more_epochs, total_epochs

log = logging.getLogger(__name__)

TRAINING_VERSION = 2
"""Part of the cache key; raise it whenever the same configuration would give other weights."""

LARGEST_BRANCH_COST = 1.0
"""Points of in-domain Dice that auxiliary branches may cost before there is a warning."""

Follow = Callable[[Path, bool], AbstractContextManager[Callable[[int, Mapping[str, float]], None]]]
"""``follow(folder, going_on)``: within it a training is told of, epoch by epoch, and complete at its end."""


def source_model(config: RunConfig, domain: Domain, root: Path, follow: Follow | None = None) -> SourceModel:
    """The source model of ``domain``: loaded if it was trained before, else trained now.

    It lives in ``root/source_models/<key>/model.ckpt``. A killed training resumes and gives the same weights as
    one that was not killed. Two processes that want the same model: one trains, the other waits. The global
    random state is as before afterwards.

    Args:
        config: the run; ``config.source`` is the domain's name.
        domain: the images to train on.
        root: folder of all results.
        follow: opens what follows the training, if there is one; then the held-out Dice is measured in every epoch.

    Raises:
        UserError: too few images, a diverging training, no GPU for ``device=cuda``, or an encoder that cannot be
            had.
    """
    path = model_path(config, domain, root)

    def make() -> None:
        with at_stake():
            _train(config, domain, path.parent, follow)
        if config.model.branches:
            _report_branch_cost(read_description(path), root)

    again = f"training the source model {config.source} again"
    source = made_once(path, config, make, doing="trains the same source model", again=again)
    _remove_leftovers(path.parent)
    return source


def model_path(config: RunConfig, domain: Domain, root: Path) -> Path:
    """Where the source model of ``domain`` lies once it is trained; arguments as of :func:`source_model`."""
    return root / "source_models" / cache_key(config, domain) / "model.ckpt"


def cache_key(config: RunConfig, domain: Domain) -> str:
    """Hash of all that determines the weights: data, network, training and this code's version."""
    geometry, activation, training = domain.geometry, config.data.activation, config.training
    train, _ = split(len(domain), training.holdout, training.seed)
    return _key(
        *(domain.fingerprint, geometry.side, domain.classes, activation, config.model, training),
        *(geometry.fit, domain.score_at, more_epochs(training, _squares(domain, train))),
    )


def _squares(domain: Domain, indices: Sequence[int]) -> int:
    """How many inputs of the network some images are in an epoch."""
    return sum(map(domain.tiles, indices))


def _key(
    fingerprint: str | None,
    image_size: int | None,
    classes: Mapping[str, Sequence[int]],
    activation: Activation,
    model: ModelConfig,
    training: TrainingConfig,
    fit: Fit,
    score_at: ScoreAt,
    more_epochs: int | None,
) -> str:
    network = model.model_dump(mode="json")
    if file := weights_file(model.encoder_weights):
        network["encoder_weights"] = digest(file)  # a file is what it holds, wherever it lies
    trained = training.content(model.branches)
    if training.patience is None:
        trained.pop("min_steps", None)  # the epochs that they make say it all
    if more_epochs is not None:
        trained["more_epochs"] = more_epochs
    content = {
        "version": TRAINING_VERSION,
        "domain": fingerprint,
        "image_size": image_size,
        "classes": [[name, list(values)] for name, values in classes.items()],
        "model": network,
        "training": trained,
        **({"activation": activation} if activation != "sigmoid" else {}),  # younger than many models and their keys
        **({"fit": fit} if fit != "stretch" else {}),
        **({"score_at": score_at} if score_at != "network" else {}),  # of the in-domain Dice
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def serves(checkpoint: Description, config: RunConfig) -> bool:
    """Whether a source model that was trained here is the one that a run with this configuration needs."""
    if checkpoint.domain != config.source or config.checkpoint is not None:
        return False
    size, classes, activation = checkpoint.image_size, checkpoint.classes, checkpoint.activation
    scoring = checkpoint.fit, checkpoint.score_at
    given = (size, {name: tuple(values) for name, values in classes.items()}, activation, *scoring)
    data, score_at = config.data, config.protocol.score_at
    if given != (data.image_size, dict(data.classes), data.activation, data.fit, score_at):
        return False
    key = _key(
        *(checkpoint.fingerprint, size, classes, activation, config.model, config.training),
        *(*scoring, checkpoint.more_epochs),
    )
    return checkpoint.path.parent.name == key


def branchless_twin(checkpoint: Description, root: Path) -> Description | None:
    """The source model without branches whose data, network and training are otherwise those of ``checkpoint``.

    Args:
        checkpoint: of a source model that was trained here.
        root: folder of all results.

    Returns:
        None if there is no such model in ``root``, or its file is damaged.
    """
    path = branchless_path(checkpoint, root)
    return read_if_sound(path) if path is not None and path.exists() else None


def read_if_sound(path: Path) -> Description | None:
    """What a checkpoint says of itself; None, with a warning, if the file cannot be read."""
    try:
        return read_description(path)
    except UserError as error:
        warn_once(log, str(error))
        return None


def branchless_path(checkpoint: Description, root: Path) -> Path | None:
    """Where the model of :func:`branchless_twin` lies once it is trained.

    None if ``checkpoint`` was given, or records a training that this version cannot do.
    """
    if checkpoint.training is None:
        return None
    try:
        model = ModelConfig.model_validate(
            {**checkpoint.architecture, "branches": (), "preprocessing": checkpoint.preprocessing.content()}
        )
        training = TrainingConfig.model_validate(checkpoint.training)
    except ValidationError:  # also where a file of encoder weights is gone: the key cannot be known any more
        return None
    size, classes, activation = checkpoint.image_size, checkpoint.classes, checkpoint.activation
    scoring = checkpoint.fit, checkpoint.score_at, checkpoint.more_epochs
    key = _key(checkpoint.fingerprint, size, classes, activation, model, training, *scoring)
    return root / "source_models" / key / "model.ckpt"


def branch_cost(checkpoint: Description, twin: Description | None) -> float | None:
    """Points of in-domain Dice that the branches cost: that of the twin without them minus that with them.

    Args:
        checkpoint: of a source model with branches.
        twin: see :func:`branchless_twin`.

    Returns:
        Percentage points, negative for a gain; None without a twin, or where a Dice was not measured.
    """
    with_branches = mean_dice(checkpoint.dice_in_domain_per_class)
    without = mean_dice(twin.dice_in_domain_per_class) if twin is not None else None
    return None if with_branches is None or without is None else without - with_branches


def lacks_twin(checkpoint: Description, twin: Description | None) -> bool:
    """Whether training the twin would tell what the branches cost; arguments as for :func:`branch_cost`."""
    return twin is None and checkpoint.training is not None and checkpoint.dice_in_domain_per_class is not None


def _report_branch_cost(checkpoint: Description, root: Path) -> None:
    """Say what the branches cost the segmentation, or how to know; nothing where no Dice was measured."""
    twin = branchless_twin(checkpoint, root)
    cost = branch_cost(checkpoint, twin)
    if lacks_twin(checkpoint, twin):
        log.info(
            "source model %s: run +method=no_adapt with model.branches=[] to know what its branches cost",
            checkpoint.domain,
        )
    if cost is None:
        return
    if cost <= LARGEST_BRANCH_COST:
        log.info("source model %s: its branches cost %.2f points of in-domain Dice", checkpoint.domain, cost)
    else:
        log.warning(
            "source model %s: its branches cost %.2f points of in-domain Dice, more than %g: lower "
            "training.branch_weights",
            checkpoint.domain,
            cost,
            LARGEST_BRANCH_COST,
        )


def _train(config: RunConfig, domain: Domain, folder: Path, follow: Follow | None) -> None:
    """Train, write ``folder/model.ckpt`` and examine it."""
    # Lightning takes seconds to import: only where something is trained.
    from tta_bench.runtime.lightning import one_device_trainer, quiet_lightning
    from tta_bench.source.callbacks import HeldOutScores, PartialCheckpoint, ProgressBar, ToldEpochs
    from tta_bench.source.dataset import training_batches
    from tta_bench.source.layer_updates import FILE, LayerUpdates
    from tta_bench.source.module import SourceTraining
    from tta_bench.source.two_passes import TwoPassTraining

    training = config.training
    train, held_out = divide(domain.name, len(domain), training)
    if not any(domain.label(index).any() for index in train):
        raise UserError(
            f"source={domain.name} has no foreground in any of the {len(train)} masks to train on (classes: "
            f"{', '.join(domain.classes)}): choose another source, or check its masks and data.classes"
        )
    device = resolve_device(config.device)
    batch, size = min(training.batch_size, len(train)), domain.side
    refuse_impossible(batch, size, True, device, "lower training.batch_size or data.image_size, or give a checkpoint")
    latest = folder / "last.ckpt"
    for path in (latest, folder / "model.ckpt"):
        move_aside(path)
    with isolated_random_state(training.seed), quiet_lightning(), numerics(device):
        model = build_model(config.model, len(domain.classes), activation=config.data.activation)
        module = (TwoPassTraining if model.categorical else SourceTraining)(model, training)
        batches = training_batches(
            domain,
            train,
            training,
            workers=min(training.workers, os.cpu_count() or 1),
            pin_memory=is_gpu(device),
            preprocessing=module.model.preprocessing,
        )
        resume = latest if _is_resumable(latest) else None
        if resume is not None:
            log.info("resuming the training of source model %s from %s", domain.name, latest)
        with follow(folder, resume is not None) if follow is not None else nullcontext() as tell:
            scores = HeldOutScores(
                partial(held_out_dice, model, domain, held_out, device),
                keep_best=training.keep == "best",
                patience=training.patience,
                least_steps=least_steps(training),
            )
            updates = LayerUpdates()
            told = [ToldEpochs(tell, lambda: {**scores.values, **updates.values})] if tell is not None else []
            scored = [scores] if told or scores.decides else []
            partial_checkpoint = PartialCheckpoint(latest, config.source, training.seed)
            callbacks = [ProgressBar(domain.name), *scored, updates, *told, partial_checkpoint]
            epochs = total_epochs(training, _squares(domain, train))
            trainer = one_device_trainer(device, callbacks, max_epochs=epochs, default_root_dir=folder)
            trainer.fit(module, batches, ckpt_path=resume, weights_only=True)
            updates.write(folder / FILE)
            if scores.best is not None:
                model.load_state_dict(scores.best)
                log.info("source model %s: epoch %d of %d is kept", domain.name, scores.best_epoch, epochs)
            save_optimizer(folder / "model.ckpt", model, trainer.optimizers[0])
            dice = in_domain_dice(model.to(device), domain, held_out, device) if held_out else None
            save_checkpoint(
                folder / "model.ckpt",
                model.state_dict(),
                architecture=config.model.model_dump(mode="json", exclude={"preprocessing"}),
                preprocessing=model.preprocessing,
                classes=domain.classes,
                activation=model.activation,
                image_size=domain.side,
                fit=domain.geometry.fit,
                score_at=domain.score_at,
                domain=domain.name,
                fingerprint=domain.fingerprint,
                intensity=config.data.model_dump(mode="json").get("intensity"),
                training=training.model_dump(mode="json"),
                more_epochs=more_epochs(training, _squares(domain, train)),
                dice_in_domain_per_class=dice,
            )
            examine(load_checkpoint(folder / "model.ckpt", config), domain, device, side_file(folder / "model.ckpt"))
    for path in _leftovers(folder):
        path.unlink(missing_ok=True)


def _leftovers(folder: Path) -> list[Path]:
    """What nobody needs beside a finished model."""
    return [*folder.glob("last.*"), *temporaries(folder)]


def _remove_leftovers(folder: Path) -> None:
    """Delete what a killed training has left beside a finished model, unless a process is still at it."""
    with suppress(OSError, Timeout):  # a folder that only may be read keeps them
        if _leftovers(folder):
            with FileLock(folder / "lock", timeout=0):
                for path in _leftovers(folder):
                    path.unlink(missing_ok=True)


def _is_resumable(partial: Path) -> bool:
    """Whether the partial checkpoint can be read; one that cannot is left out with a warning."""
    if not partial.exists():
        return False
    try:
        content = read_torch_file(partial)
        missing = {"state_dict", "optimizer_states", "loops"} - (content.keys() if isinstance(content, dict) else set())
        fault = f"lacks {', '.join(sorted(missing))}" if missing else None
    except TorchFileError as error:
        fault = error.reason
    if fault is not None:
        log.warning("ignoring the broken partial checkpoint %s (%s): training anew", partial, fault)
    return fault is None
