"""One progress bar for all streams of a cell."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tta_bench.data.streams import ImageBatch


class AdaptationProgress(pl.Callback):
    """Moves a bar to what is done after each batch; see :func:`progress_bar`."""

    def __init__(self, bar: Progress, task: TaskID, done: Sized) -> None:
        self.bar = bar
        self.task = task
        self.done = done

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move to what is done now: less than before, where streams begin again."""
        self.bar.update(self.task, completed=len(self.done), domain=batch.places[0].domain)


@contextmanager
def progress_bar(title: str, total: int, done: Sized) -> Iterator[AdaptationProgress]:
    """A bar that is gone when the block ends; nothing where the output is no terminal.

    Args:
        title: what stands before the bar.
        total: images of all streams.
        done: one thing for each of them that is done, in this run or before; looked at after each batch.
    """
    columns = (
        TextColumn("{task.description} {task.fields[domain]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield AdaptationProgress(bar, bar.add_task(title, total=total, completed=len(done), domain=""), done)
