"""Weights & Biases as a sink beside the results folder: one run per cell."""

from __future__ import annotations

from tta_bench.config import LoggerConfig
from tta_bench.errors import UserError
from tta_bench.results.store import CellFolder


def log_to_wandb(config: LoggerConfig, cell: CellFolder, again: bool = False) -> None:
    """Send a finished cell: its summary, and per image the Dice and the method's diagnostics.

    The run's id is the cell's hash, so a recomputed cell replaces its run; the group is that of the sweep.

    Args:
        config: whether and where to.
        cell: finished.
        again: also if it was sent before, because it has been computed anew.

    Raises:
        UserError: W&B refuses, for instance because nobody is logged in; the cell itself is finished.
    """
    if config.name != "wandb" or ((cell.path / "wandb").exists() and not again):
        return
    try:
        _send(config, cell)
    except Exception as error:  # of many kinds, from the network to the account
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"W&B did not take the results in {cell.path} ({reason}): they are complete; log in with 'wandb login', "
            "or use logger.mode=offline or logger=none"
        ) from None


def _send(config: LoggerConfig, cell: CellFolder) -> None:
    import wandb  # two seconds, only where asked for

    summary = cell.summary()
    assert summary is not None
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        group=config.group,
        mode=config.mode,
        id=cell.hash,
        name=f"{summary['method']} {summary['source']} seed {summary['seed']}",
        dir=str(cell.path),
        config={key: summary[key] for key in ("method", "source", "seed", "protocol", "source_checkpoint", "versions")},
        settings=wandb.Settings(silent=True),
    )
    try:
        for row in cell.rows():
            values = {f"{row['target']}/{name}": float(value) for name, value in row.items() if _is_number(value)}
            run.log(values)
        for name, target in summary["targets"].items():
            run.summary.update({f"{name}/{key}": value for key, value in target.items()})
        run.summary["dice"] = summary["dice"]
    finally:
        run.finish()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
