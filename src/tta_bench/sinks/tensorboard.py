"""TensorBoard: event files that it follows live."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BeforeValidator

from tta_bench.runtime.values import flat
from tta_bench.sinks.base import About, Outcome, Point, Run, SinkOptions, register_sink


class TensorBoardOptions(SinkOptions):
    """The keys of ``conf/logger/tensorboard.yaml``."""

    folder: Annotated[Path, BeforeValidator(lambda value: Path(str(value)).expanduser())]


@register_sink("tensorboard", "TensorBoard", TensorBoardOptions, extra="tensorboard")
class TensorBoardRun(Run):
    """TensorBoard: a run per cell and per source training, live."""

    def __init__(
        self, options: TensorBoardOptions, about: About, folder: Path, going_on: bool, patience: float
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra

        for earlier in options.folder.glob(f"**/* {about.id[:8]}"):  # all its points come again
            shutil.rmtree(earlier, ignore_errors=True)
        group = _folder_name(about.group or f"{about.job}s")
        self._writer = SummaryWriter(
            options.folder / group / f"{_folder_name(about.name)} {about.id[:8]}", flush_secs=5
        )
        self._about = about
        self._last = 0
        self._writer.add_text("config", f"```json\n{json.dumps(about.config, indent=2)}\n```".replace("\n", "  \n"))
        self._writer.add_text("tags", ", ".join((about.job, *about.tags)))

    def log(self, point: Point) -> None:
        """A scalar per curve, over the images of its target."""
        self._last = max(self._last, point.position)
        for name, value in point.values.items():
            self._writer.add_scalar(name, value, point.position)

    def finish(self, outcome: Outcome) -> None:
        """Panels, the table as text, and the summary beside the options (its page HPARAMS)."""
        from torch.utils.tensorboard.summary import hparams

        for name, path in outcome.pictures.items():
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(f"panels/{name}", pixels, self._last, dataformats="HWC")
        if outcome.grid is not None:
            lines = [outcome.grid.columns, ["---"] * len(outcome.grid.columns), *outcome.grid.rows]
            self._writer.add_text("table", "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
        numbers = {f"final/{name}": value for name, value in outcome.summary.items() if not isinstance(value, str)}
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, self._last)
        if self._about.job == "cell":
            options: dict[str, Any] = {
                name: value if isinstance(value, bool | int | float | str) else str(value)
                for name, value in flat(self._about.config, "/").items()
                if name.partition("/")[0] in ("method", "source", "seed", "protocol", "training", "model")
            }
            for summary in hparams(options, {"final/dice": None} if "final/dice" in numbers else {}):
                self._writer._get_file_writer().add_summary(summary)
        self._writer.close()

    def stop(self) -> None:
        """What there is stays until it goes on."""
        self._writer.close()


def _folder_name(text: str) -> str:
    """Readable, and a name on every file system."""
    return re.sub(r"[^\w .,=+-]+", "_", text)[:100].strip(" .") or "_"


def _cell(value: str | float | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value).replace("|", "/")
