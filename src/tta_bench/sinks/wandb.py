"""Weights & Biases: live curves, panels and tables."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from tta_bench.sinks.base import About, Outcome, Point, Run, SinkOptions, register_sink


class WandbOptions(SinkOptions):
    """The keys of ``conf/logger/wandb.yaml``."""

    project: str
    entity: str | None
    mode: Literal["online", "offline"]


@register_sink("wandb", "W&B", WandbOptions)
class WandbRun(Run):
    """Weights & Biases: a run per cell and per source training, live."""

    def __init__(self, options: WandbOptions, about: About, folder: Path, going_on: bool, patience: float) -> None:
        import wandb  # two seconds, only where asked for

        self._wandb = wandb
        self._earlier = list(folder.glob(f"wandb/offline-run-*-{about.id}"))
        if options.mode == "offline":
            self._forget_earlier()
        resume: Any = {"resume": "allow"} if going_on and options.mode == "online" else {}
        self._run = wandb.init(
            project=options.project,
            entity=options.entity,
            mode=options.mode,
            id=about.id,
            name=about.name,
            group=about.group and about.group[:128],
            job_type=about.job,
            tags=list(about.tags),
            config=dict(about.config),
            dir=str(folder),
            settings=wandb.Settings(silent=True, **_known(wandb.Settings, patience)),
            **resume,
        )
        # A declined login leaves a run that goes nowhere.
        if getattr(self._run, "disabled", False) is True or (
            options.mode == "online" and getattr(self._run, "offline", False) is True
        ):
            self._run.finish()
            raise ConnectionError("it has opened no online run: log in with 'wandb login'")
        self.held = self._run.step if resume else 0
        self._axes: set[str] = set()

    def log(self, point: Point) -> None:
        """A row of the run's history, drawn over the images of its target."""
        if point.axis not in self._axes:
            self._axes.add(point.axis)
            target, slash, _ = point.axis.rpartition("/")
            self._run.define_metric(f"{target}{slash}*", step_metric=point.axis)
        self._run.log({point.axis: point.position, **point.values})

    def finish(self, outcome: Outcome) -> None:
        """Panels, the table, the summary, and an artefact of the files."""
        last: dict[str, Any] = {
            f"panels/{name}": self._wandb.Image(str(path)) for name, path in outcome.pictures.items()
        }
        if outcome.grid is not None:
            last["table"] = self._wandb.Table(
                columns=list(outcome.grid.columns),
                data=[list(row) for row in outcome.grid.rows],
                allow_mixed_types=True,
            )
        if last:
            self._run.log(last)
        if outcome.files:
            artefact = self._wandb.Artifact(self._run.id, type="report")
            for path in outcome.files:
                artefact.add_file(str(path))
            self._run.log_artifact(artefact)
        self._run.summary.update(dict(outcome.summary))
        self._run.finish()
        self._forget_earlier()

    def stop(self) -> None:
        """It shows as failed, until it goes on."""
        self._run.finish(exit_code=1)

    def _forget_earlier(self) -> None:
        """Remove what was kept offline; all its points come again, but online only what has arrived is certain."""
        for folder in self._earlier:
            shutil.rmtree(folder, ignore_errors=True)
        self._earlier = []


def _known(settings: Any, patience: float) -> dict[str, Any]:
    """Those settings that this version of W&B knows: against waiting, and for several runs beside each other."""
    wanted = {
        "init_timeout": patience / 2,
        "finish_timeout": patience / 2,  # also for its work at the program's end
        "finish_timeout_raises": True,
        "reinit": "create_new",
        "console": "off",  # what is printed is not of one run
    }
    return {name: value for name, value in wanted.items() if name in getattr(settings, "model_fields", {})}
