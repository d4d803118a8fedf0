"""How far each layer moves in an epoch of a training."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tta_bench.runtime.files import write_atomically

FILE = "layer_updates.csv"
"""Beside a source model."""


class LayerUpdates(pl.Callback):
    """Measures what an epoch does to the weights of convolutions and linear layers, and changes nothing.

    Attributes:
        epochs: per epoch, layer -> root mean square of the change of its weights.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._before: dict[str, Tensor] = {}

    @property
    def values(self) -> dict[str, float]:
        """Of the last epoch, as dashboards call them."""
        return {f"update/{layer}": value for layer, value in (self.epochs[-1] if self.epochs else {}).items()}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights as they are."""
        self._before = {name: weight.detach().clone() for name, weight in _weights(pl_module).items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare."""
        weights = _weights(pl_module)
        moved = [(weights[name].detach() - before).square().mean().sqrt() for name, before in self._before.items()]
        self.epochs.append(dict(zip(weights, torch.stack(moved).tolist() if moved else (), strict=True)))
        self._before = {}

    def write(self, path: Path) -> None:
        """All epochs as a table with the columns ``epoch``, from 1, ``layer`` and ``update``."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["epoch", "layer", "update"])
        for epoch, layers in enumerate(self.epochs, 1):
            table.writerows([epoch, layer, f"{value:.6g}"] for layer, value in layers.items())
        write_atomically(path, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        """For the partial checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called once a training goes on."""
        self.epochs = list(state_dict["epochs"])


def _weights(module: nn.Module) -> Mapping[str, Tensor]:
    """Layer -> its weights, in module order."""
    return {
        name.removeprefix("model."): layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }
