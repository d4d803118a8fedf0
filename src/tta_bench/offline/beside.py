"""Tensors beside the file of a model, made of it once: what is kept of images that will not be seen again."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.models.checkpoint import SourceModel
from tta_bench.runtime.files import write_atomically
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file


def beside(model: SourceModel, name: str, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name: read where they were made of the same file and key before, else made now and written.

    Args:
        model: with its file.
        name: of the tensors' file, without ending.
        key: of all else that determines them.
        make: makes them.
    """
    path, told = model.path.with_name(f"{name}.pt"), f"{model.sha256} {key}"
    try:
        content = read_torch_file(path) if path.is_file() else {}
    except TorchFileError:
        content = {}
    if content.get("key") != told:
        content = {"key": told, "tensors": dict(make())}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(path, buffer.getvalue())
    return dict(content["tensors"])


def read_beside(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """What :func:`beside` has written beside a checkpoint.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    path = checkpoint.with_name(f"{name}.pt")
    try:
        return dict(read_torch_file(path)["tensors"])
    except TorchFileError as error:
        raise UserError(f"{path} {error.reason}: remove it, and the next run makes it again") from error
