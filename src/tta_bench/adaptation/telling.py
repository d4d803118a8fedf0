"""Tells of each image once it is scored: a dashboard, for instance, that follows a run live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from tta_bench.adaptation.scoring import Scoring
from tta_bench.records.scores import ImageRecord


class Telling(pl.Callback):
    """Looks on, after the scoring; what a run before has scored is told first.

    Args:
        scoring: whose records are told.
        tell: what is done with each record; must not wait.
    """

    def __init__(self, scoring: Scoring, tell: Callable[[ImageRecord], None]) -> None:
        self.scoring = scoring
        self.tell = tell
        self._told = 0

    def on_test_batch_end(self, *_: Any) -> None:
        """Tell what was not told yet."""
        for record in self.scoring.records[self._told :]:
            self.tell(record)
        self._told = len(self.scoring.records)
