"""What both uses of Lightning share: a quiet trainer on one device that leaves signals to the program."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment

from tta_bench.runtime import signals
from tta_bench.runtime.numerics import is_gpu

_WORKERS_DIE_FIRST = 0.5  # seconds


def one_device_trainer(device: torch.device, callbacks: Sequence[pl.Callback], **options: Any) -> pl.Trainer:
    """A trainer that shows and writes nothing by itself.

    Args:
        device: to run on.
        callbacks: in the order in which they are called.
        options: further arguments of the trainer.
    """
    return pl.Trainer(
        accelerator="gpu" if is_gpu(device) else "cpu",
        devices=[torch.cuda.current_device() if device.index is None else device.index] if is_gpu(device) else 1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_LeaveSignals(), *callbacks],
        # Told, not guessed: under SLURM Lightning asks for one process per task and puts its own job back in the queue.
        plugins=[LightningEnvironment()],
        **options,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without its notes on hardware, on the number of workers and on loggers, and without its exit on Ctrl-C."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), _let_interruptions_through():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _LeaveSignals(pl.Callback):
    """Undoes that Lightning takes SIGTERM, which ends a training as if it were complete; stops where one got lost."""

    def __init__(self) -> None:
        self._sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give SIGTERM back to whom it belonged."""
        if self._sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)

    on_test_start = on_train_start

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop if a signal's exception got lost on its way."""
        signals.check()

    def on_test_batch_start(self, *_: Any) -> None:
        """Likewise."""
        signals.check()


@contextmanager
def _let_interruptions_through() -> Iterator[None]:
    """Undo that Lightning turns Ctrl-C into ``SystemExit(1)`` and ignores all later ones."""
    sigint = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    except RuntimeError as error:
        # A job that is ended signals all its processes in any order: a worker may die before this one has its signal.
        if "DataLoader worker" in str(error):
            time.sleep(_WORKERS_DIE_FIRST)
        raise
    finally:
        if sigint is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, sigint)
