"""Weights & Biases as a sink beside the results folder: one run per cell."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from tta_bench.metrics.base import PRIMARY
from tta_bench.records.store import CellFolder
from tta_bench.schema import LoggerConfig
from tta_bench.sinks.base import register_sink


class WandbOptions(LoggerConfig):
    """The keys of ``conf/logger/wandb.yaml``."""

    model_config = ConfigDict(extra="forbid")

    project: str
    entity: str | None
    group: str | None = Field(exclude=True, description="no other destination: one project has it all")
    mode: Literal["online", "offline"]


@register_sink("wandb", "W&B", WandbOptions)
def send_to_wandb(config: WandbOptions, cell: CellFolder, patience: float) -> None:
    """Send a finished cell: its summary, and per image the metrics and the method's diagnostics.

    The run's id is the cell's hash, so a recomputed cell replaces its run; the group is that of the sweep.

    Args:
        config: where to.
        cell: finished.
        patience: seconds after which W&B gives up.

    Raises:
        BaseException: of many kinds, if W&B refuses, for instance because nobody is logged in.
    """
    import wandb  # two seconds, only where asked for

    finished = cell.finished()
    assert finished is not None
    summary, rows = finished
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        group=config.group,
        mode=config.mode,
        id=cell.hash,
        name=f"{summary['method']} {summary['source']} seed {summary['seed']}",
        dir=str(cell.path),
        config={key: summary[key] for key in ("method", "source", "seed", "protocol", "source_checkpoint", "versions")},
        settings=wandb.Settings(silent=True, **_limits(wandb.Settings, patience)),
    )
    try:
        # A declined login leaves a run that goes nowhere.
        if getattr(run, "disabled", False) is True or (
            config.mode == "online" and getattr(run, "offline", False) is True
        ):
            raise ConnectionError("it has opened no online run: log in with 'wandb login'")
        for row in rows:
            values = {f"{row['target']}/{name}": float(value) for name, value in row.items() if _is_number(value)}
            run.log(values)
        for name, target in summary["targets"].items():
            run.summary.update({f"{name}/{key}": value for key, value in target.items()})
        run.summary.update({name: summary[name] for name in {PRIMARY: "", **summary.get("metrics", {})}})
    finally:
        run.finish()


def _limits(settings: Any, patience: float) -> dict[str, Any]:
    """Those of the settings against waiting that this version of W&B knows; also for its work at the program's end."""
    known = getattr(settings, "model_fields", {})
    limits = {"init_timeout": patience / 2, "finish_timeout": patience / 2, "finish_timeout_raises": True}
    return {name: value for name, value in limits.items() if name in known}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
