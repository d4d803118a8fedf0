"""What the optimiser of a source training has gathered, in a file beside the checkpoint, which stays as it is."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tta_bench.errors import UserError
from tta_bench.runtime.files import write_atomically
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file

OPTIMIZER = "optimizer.pt"

Gathered = Mapping[str, Mapping[str, Any]]
"""Name of a parameter of the network -> what the optimiser keeps of it: ``momentum_buffer``, or ``exp_avg`` and
``exp_avg_sq``."""


def save_optimizer(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write what it has gathered of the parameters of ``model`` beside ``checkpoint``."""
    kept = {
        name: {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
        for name, parameter in model.named_parameters()
        if (state := optimizer.state.get(parameter))
    }
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    write_atomically(checkpoint.with_name(OPTIMIZER), buffer.getvalue())


def read_optimizer(checkpoint: Path) -> Gathered:
    """What was gathered until ``checkpoint`` was written.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    path = checkpoint.with_name(OPTIMIZER)
    if not path.is_file():
        raise UserError(
            f"{path} is not there: source models that were trained by an older version lack what their optimiser had "
            f"gathered; remove {checkpoint.parent}, and the same model is trained again, with it"
        )
    try:
        content = read_torch_file(path)
    except TorchFileError as error:
        raise UserError(f"{path} {error.reason}: remove {checkpoint.parent}, and it is trained again") from error
    return dict(content)
