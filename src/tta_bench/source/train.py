"""The source model of a domain: trained once, kept under a hash of everything that determines it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tta_bench.config import ModelConfig, RunConfig, TrainingConfig
from tta_bench.data.domain import Domain
from tta_bench.device import resolve_device
from tta_bench.errors import UserError
from tta_bench.lightning import quiet_lightning
from tta_bench.locks import acquire_lock
from tta_bench.memory import refuse_impossible
from tta_bench.metrics import dice_score
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import (
    Checkpoint,
    SourceModel,
    load_checkpoint,
    mean_dice,
    read_checkpoint,
    save_checkpoint,
)
from tta_bench.models.segmentation import SegmentationModel
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
        UserError: too few images, a diverging training, no GPU for ``device=cuda``, an encoder that cannot be
            had, or a damaged file in the cache.
    """
    folder = root / "source_models" / cache_key(config, domain)
    path = folder / "model.ckpt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire_lock(folder / "lock", "trains the same source model")
        try:
            if not path.exists():  # another process may have made it in the meantime
                _train(config, domain, folder)
                if config.model.branches:
                    _report_branch_cost(read_checkpoint(path), root)
        finally:
            lock.release()
    return load_checkpoint(path, config)


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
    content = {
        "version": TRAINING_VERSION,
        "domain": fingerprint,
        "image_size": image_size,
        "classes": [[name, list(values)] for name, values in classes.items()],
        "model": model.model_dump(mode="json"),
        "training": training.content(model.branches),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def branchless_twin(checkpoint: Checkpoint, root: Path) -> Checkpoint | None:
    """The source model without branches whose data, network and training are otherwise those of ``checkpoint``.

    Args:
        checkpoint: of a source model that was trained here.
        root: folder of all results.

    Returns:
        None if there is no such model in ``root``.

    Raises:
        UserError: its file is damaged.
    """
    path = branchless_path(checkpoint, root)
    return read_checkpoint(path) if path is not None and path.exists() else None


def branchless_path(checkpoint: Checkpoint, root: Path) -> Path | None:
    """Where the model of :func:`branchless_twin` lies once it is trained; None if ``checkpoint`` was given."""
    if checkpoint.training is None:
        return None
    model = ModelConfig.model_validate({**checkpoint.architecture, "branches": ()})
    training = TrainingConfig.model_validate(checkpoint.training)
    key = _key(checkpoint.fingerprint, checkpoint.image_size, checkpoint.classes, model, training)
    return root / "source_models" / key / "model.ckpt"


def branch_cost(checkpoint: Checkpoint, twin: Checkpoint | None) -> float | None:
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


def lacks_twin(checkpoint: Checkpoint, twin: Checkpoint | None) -> bool:
    """Whether training the twin would tell what the branches cost; arguments as for :func:`branch_cost`."""
    return twin is None and checkpoint.training is not None and checkpoint.dice_in_domain_per_class is not None


def _report_branch_cost(checkpoint: Checkpoint, root: Path) -> None:
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
    device = resolve_device(config.device)
    batch, size = min(training.batch_size, len(train)), domain.images.shape[1]
    refuse_impossible(batch, size, True, device, "lower training.batch_size or data.image_size, or give a checkpoint")
    partial = folder / "last.ckpt"
    with _isolated_random_state(training.seed), quiet_lightning():
        module = SourceTraining(build_model(config.model, len(domain.classes)), training)
        batches = training_batches(
            domain,
            train,
            training,
            workers=min(training.workers, os.cpu_count() or 1),
            pin_memory=device.type == "cuda",
        )
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=training.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[ProgressBar(domain.name), PartialCheckpoint(partial)],
        )
        resume = partial if _is_resumable(partial) else None
        if resume is not None:
            log.info("resuming the training of source model %s from %s", domain.name, partial)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
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
    partial.unlink(missing_ok=True)


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
        temporary = self.path.with_suffix(".part")
        trainer.save_checkpoint(temporary)
        os.replace(temporary, self.path)
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
        """Leave the terminal as it was, also after an exception."""
        self._bar.stop()


def _is_resumable(partial: Path) -> bool:
    """Whether the partial checkpoint can be read; one that cannot is left out with a warning."""
    if not partial.exists():
        return False
    try:
        content = torch.load(partial, map_location="cpu", weights_only=True)
        missing = {"state_dict", "optimizer_states", "loops"} - content.keys()
    except Exception as error:  # torch raises many kinds for damaged files, none documented
        missing = {f"{type(error).__name__}: {error}"}
    if missing:
        log.warning("ignoring the broken partial checkpoint %s (%s): training anew", partial, missing)
    return not missing


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
