"""The source model of a domain: trained once, kept under a hash of everything that determines it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tta_bench.data.domain import Domain
from tta_bench.errors import UserError
from tta_bench.metrics.dice import dice_score
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import (
    Description,
    SourceModel,
    load_checkpoint,
    mean_dice,
    read_description,
    save_checkpoint,
)
from tta_bench.models.encoder_weights import digest, weights_file
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.runtime.files import move_aside, replacing, temporaries, warn_once
from tta_bench.runtime.lightning import one_device_trainer, quiet_lightning
from tta_bench.runtime.locks import acquire_lock
from tta_bench.runtime.memory import refuse_impossible
from tta_bench.runtime.numerics import is_gpu, numerics, resolve_device
from tta_bench.runtime.signals import at_stake
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file
from tta_bench.schema import ModelConfig, RunConfig, TrainingConfig
from tta_bench.source.dataset import split, training_batches
from tta_bench.source.module import SourceTraining

log = logging.getLogger(__name__)

TRAINING_VERSION = 2
"""Part of the cache key; raise it whenever the same configuration would give other weights."""

THRESHOLD = 0.5
"""Probability from which a pixel belongs to a class, for the in-domain Dice."""

LARGEST_BRANCH_COST = 1.0
"""Points of in-domain Dice that auxiliary branches may cost before there is a warning."""

_PARTIAL_SECONDS = 10.0  # between two partial checkpoints: at most this much work is lost


def source_model(config: RunConfig, domain: Domain, root: Path) -> SourceModel:
    """The source model of ``domain``: loaded if it was trained before, else trained now.

    It lives in ``root/source_models/<key>/model.ckpt``. A killed training resumes and gives the same weights as
    one that was not killed. Two processes that want the same model: one trains, the other waits. The global
    random state is as before afterwards.

    Args:
        config: the run; ``config.source`` is the domain's name.
        domain: the images to train on.
        root: folder of all results.

    Raises:
        UserError: too few images, a diverging training, no GPU for ``device=cuda``, or an encoder that cannot be
            had.
    """
    path = model_path(config, domain, root)
    folder = path.parent
    source = _cached(path, config)
    if source is not None:
        _remove_leftovers(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        move_aside(folder / "lock")
        lock = acquire_lock(folder / "lock", "trains the same source model")
        try:
            source = _cached(path, config)  # another process may have made it in the meantime
            if source is None:
                with at_stake():
                    _train(config, domain, folder)
                if config.model.branches:
                    _report_branch_cost(read_description(path), root)
                source = load_checkpoint(path, config)
        finally:
            lock.release()
    return source


def _cached(path: Path, config: RunConfig) -> SourceModel | None:
    """The model that was trained before; None, with a warning, if its file is damaged: it is trained again."""
    if not path.exists():
        return None
    try:
        return load_checkpoint(path, config)
    except UserError as error:
        warn_once(log, f"training the source model {config.source} again: {error}")
        return None


def model_path(config: RunConfig, domain: Domain, root: Path) -> Path:
    """Where the source model of ``domain`` lies once it is trained; arguments as of :func:`source_model`."""
    return root / "source_models" / cache_key(config, domain) / "model.ckpt"


def cache_key(config: RunConfig, domain: Domain) -> str:
    """Hash of all that determines the weights: data, network, training and this code's version."""
    return _key(domain.fingerprint, domain.images.shape[1], domain.classes, config.model, config.training)


def _key(
    fingerprint: str | None,
    image_size: int | None,
    classes: Mapping[str, Sequence[int]],
    model: ModelConfig,
    training: TrainingConfig,
) -> str:
    network = model.model_dump(mode="json")
    if file := weights_file(model.encoder_weights):
        network["encoder_weights"] = digest(file)  # a file is what it holds, wherever it lies
    content = {
        "version": TRAINING_VERSION,
        "domain": fingerprint,
        "image_size": image_size,
        "classes": [[name, list(values)] for name, values in classes.items()],
        "model": network,
        "training": training.content(model.branches),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


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
        model = ModelConfig.model_validate({**checkpoint.architecture, "branches": ()})
        training = TrainingConfig.model_validate(checkpoint.training)
    except ValidationError:  # also where a file of encoder weights is gone: the key cannot be known any more
        return None
    key = _key(checkpoint.fingerprint, checkpoint.image_size, checkpoint.classes, model, training)
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


def in_domain_dice(
    model: SegmentationModel, domain: Domain, indices: Sequence[int], device: torch.device
) -> dict[str, float]:
    """Mean Dice of each class, percent, of ``model`` in eval mode on some images of its own domain."""
    model.eval()
    scores = []
    with torch.no_grad():
        for index in indices:
            logits = model(domain.image(index)[None].to(device))[0].cpu()
            scores.append(dice_score(torch.sigmoid(logits) >= THRESHOLD, domain.label(index)))
    means = torch.stack(scores).mean(dim=0).tolist()
    return dict(zip(domain.classes, means, strict=True))


def _train(config: RunConfig, domain: Domain, folder: Path) -> None:
    """Train and write ``folder/model.ckpt``; the last epoch counts."""
    training = config.training
    train, held_out = split(len(domain), training.holdout, training.seed)
    if len(train) < 2:
        raise UserError(
            f"source={domain.name} has {len(domain)} images, {len(held_out)} of them held out: training needs at "
            "least 2; add images, raise data.limit or set training.holdout=0"
        )
    if not any(domain.label(index).any() for index in train):
        raise UserError(
            f"source={domain.name} has no foreground in any of the {len(train)} masks to train on (classes: "
            f"{', '.join(domain.classes)}): choose another source, or check its masks and data.classes"
        )
    device = resolve_device(config.device)
    batch, size = min(training.batch_size, len(train)), domain.images.shape[1]
    refuse_impossible(batch, size, True, device, "lower training.batch_size or data.image_size, or give a checkpoint")
    partial = folder / "last.ckpt"
    for path in (partial, folder / "model.ckpt"):
        move_aside(path)
    with _isolated_random_state(training.seed), quiet_lightning(), numerics(device):
        module = SourceTraining(build_model(config.model, len(domain.classes)), training)
        batches = training_batches(
            domain,
            train,
            training,
            workers=min(training.workers, os.cpu_count() or 1),
            pin_memory=is_gpu(device),
        )
        callbacks = [ProgressBar(domain.name), PartialCheckpoint(partial)]
        trainer = one_device_trainer(device, callbacks, max_epochs=training.epochs, default_root_dir=folder)
        resume = partial if _is_resumable(partial) else None
        if resume is not None:
            log.info("resuming the training of source model %s from %s", domain.name, partial)
        trainer.fit(module, batches, ckpt_path=resume, weights_only=True)
        model = module.model.to(device)
        dice = in_domain_dice(model, domain, held_out, device) if held_out else None
    save_checkpoint(
        folder / "model.ckpt",
        model.state_dict(),
        architecture=config.model.model_dump(mode="json"),
        classes=domain.classes,
        image_size=domain.images.shape[1],
        domain=domain.name,
        fingerprint=domain.fingerprint,
        training=training.model_dump(mode="json"),
        dice_in_domain_per_class=dice,
    )
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


class PartialCheckpoint(pl.Callback):
    """Keeps the state after a finished epoch, at most every few seconds, to resume a killed training.

    Args:
        path: the file, replaced each time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved = monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time; after the last epoch the finished model follows at once."""
        if monotonic() - self._saved < _PARTIAL_SECONDS or trainer.current_epoch + 1 == trainer.max_epochs:
            return
        with replacing(self.path) as temporary:
            trainer.save_checkpoint(temporary)
        self._saved = monotonic()


class ProgressBar(pl.Callback):
    """One bar for the whole training, with epoch and loss.

    Args:
        domain: named in front of the bar.
    """

    def __init__(self, domain: str) -> None:
        self._bar = Progress(
            TextColumn(f"source model {domain}: epoch {{task.fields[epoch]}}, loss {{task.fields[loss]}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._task = TaskID(0)
        self._losses: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at the step that a resumed training has reached."""
        steps = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
        self._task = self._bar.add_task("", total=steps, completed=trainer.global_step, epoch="-", loss="-")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance, with the mean loss of the epoch so far."""
        self._losses = [*self._losses, float(outputs["loss"])] if batch_idx else [float(outputs["loss"])]
        self._bar.update(
            self._task,
            completed=trainer.global_step,
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            loss=f"{np.mean(self._losses):.3f}",
        )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same, for Lightning tears down nothing then."""
        self._bar.stop()


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


@contextmanager
def _isolated_random_state(seed: int) -> Iterator[None]:
    """Seed every global generator, and put their states back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
