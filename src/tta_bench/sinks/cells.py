"""A cell as a run of its own, live and afterwards."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from tta_bench.data.domain import Domain
from tta_bench.metrics.base import METRICS, PRIMARY
from tta_bench.records.examination import Examination
from tta_bench.records.scores import ImageRecord
from tta_bench.records.store import CellFolder
from tta_bench.schema import RunConfig
from tta_bench.sinks.about import about_cell
from tta_bench.sinks.contents import Curves
from tta_bench.sinks.delivery import Live, send, unsent
from tta_bench.sinks.panels import write_panels

log = logging.getLogger(__name__)


class Followed:
    """A cell that the destinations of ``config.logger`` follow; with none of them, nothing happens.

    Args:
        config: of the cell.
        seed: of the cell.
        folder: of the cell.
        beside: name -> folder of the cells that it is compared with, where they are finished.
        domains: the prepared targets.
        examination: of its source model.
    """

    def __init__(
        self,
        config: RunConfig,
        seed: int,
        folder: CellFolder,
        beside: Mapping[str, CellFolder],
        domains: Mapping[str, Domain],
        examination: Examination | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.folder = folder
        self.beside = beside
        self.domains = domains
        self.weak = examination is not None and bool(examination.weaknesses(config.diagnostics))
        self._live: Live | None = None

    def begin(self, row: Callable[[ImageRecord], Mapping[str, Any]], going_on: bool) -> Callable[[ImageRecord], None]:
        """Open the run.

        Args:
            row: of ``per_image.csv``.
            going_on: whether a cell that was stopped goes on; then its images are told again, from the first.

        Returns:
            What tells of an image, and returns at once.
        """
        if not self.config.logger:
            return lambda record: None
        about = about_cell(self.config, self.seed, self.folder.hash, self.weak)
        live = self._live = Live(self.config.logger, about, self.folder.path, going_on=going_on)
        curves = Curves(self.config.metrics)
        return lambda record: live.tell(curves.point(row(record)))

    def stop(self) -> None:
        """The cell has failed or was interrupted."""
        if self._live is not None:
            self._live.stop()

    def finish(self) -> None:
        """The cell's results are written."""
        if self._live is not None:
            self._paint()
            self._live.finish(self._compared())

    def send(self) -> None:
        """Send a cell that was finished before to those who do not have it."""
        if any(True for _ in unsent(self.config.logger, self.folder.path)):
            self._paint()
            about = about_cell(self.config, self.seed, self.folder.hash, self.weak)
            send(self.config.logger, about, self.folder.path, self._compared())

    def _paint(self) -> None:
        """A picture only accompanies a result."""
        try:
            finished = self.folder.finished()
            if finished is not None:
                write_panels(self.folder, self.domains, finished[1])
        except Exception as error:
            log.warning("no panels for the dashboard (%s: %s)", type(error).__name__, error)

    def _compared(self) -> dict[str, float]:
        """Dice of the other cells, and what this one gains over them; further metrics under their names.

        A gain is above 0 where this cell is better, whichever way the metric is read.
        """
        own, compared = self.folder.finished(), {}
        for name, folder in self.beside.items():
            other = folder.finished()
            if own is None or other is None:
                continue
            for metric in self.config.metrics:
                if metric not in other[0]:
                    continue
                of = "" if metric == PRIMARY else f"{metric}_"
                sign = -1 if METRICS.get(metric).direction == "lower" else 1
                compared[f"compared/{of}{name}"] = other[0][metric]
                compared[f"compared/{of}gain_over_{name}"] = sign * (own[0][metric] - other[0][metric])
                for target, scores in own[0]["targets"].items():
                    gain = sign * (scores[metric] - other[0]["targets"][target][metric])
                    compared[f"{target}/{of}gain_over_{name}"] = gain
        return {name: value for name, value in compared.items() if math.isfinite(value)}
