"""Reading a checkpoint of either format."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import official, own
from tta_bench.models.checkpoint.checks import misfits
from tta_bench.models.checkpoint.content import Checkpoint, Description, SourceModel
from tta_bench.models.weights import Unfilled, value_faults
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file

if TYPE_CHECKING:
    from tta_bench.schema import RunConfig


def read_checkpoint(path: Path) -> Checkpoint:
    """Read either format and check all that needs no configuration.

    Raises:
        UserError: no such file, truncated, not PyTorch's, would execute code, incomplete, an unknown version,
            not the authors' network, not the network that it says, or weights that no network can have.
    """
    content = _content(path)
    sha256 = file_sha256(path)
    file_format = own if _is_own(content) else official
    description = file_format.describe(path, content)
    state = file_format.weights(path, content)
    faults = value_faults(state)
    if faults:
        raise UserError(
            [
                f"checkpoint {path}: {fault}: the training diverged or the file was edited; train it again, for "
                "instance with a lower training.learning_rate"
                for fault in faults
            ]
        )
    return Checkpoint(**vars(description), sha256=sha256, state=state)


def read_description(path: Path) -> Description:
    """What a checkpoint of either format says of itself; its weights are neither read nor checked.

    Cells of a sweep share it, and the report of them: it is read once while the file stays as it is.

    Raises:
        UserError: no such file, not PyTorch's, would execute code, or a description of ours that cannot be.
    """
    return _description(path, file_state(path))


@lru_cache(maxsize=64)
def _description(path: Path, state: tuple[int, ...]) -> Description:
    content = _content(path, tensors=False)
    return own.describe(path, content) if _is_own(content) else official.describe(path, content)


def has_two_copies(path: Path | None) -> bool:
    """Whether there is a checkpoint that can be read, and it is of :mod:`tta_bench.models.spottuned`."""
    try:
        return path is not None and read_description(path).spottuned is not None
    except UserError:
        return False


def load_checkpoint(path: Path, config: RunConfig) -> SourceModel:
    """Load a source model of either format for a run.

    Branches that the run does not ask for are left in the file. Cells of a sweep that follow each other share what is
    read of it, while the file stays as it is.

    Args:
        path: the checkpoint.
        config: the run it must fit: architecture, classes, image size and source domain.

    Raises:
        UserError: all that does not fit, each with the file, the field, both values and the remedy.
    """
    checkpoint = _checkpoint(path, file_state(path))
    faults = misfits(checkpoint, config)
    if faults:
        raise UserError([f"checkpoint {path}: {fault}" for fault in faults])
    with torch.random.fork_rng(devices=[]), Unfilled():  # what is drawn all the same is of the global random state
        model = build_model(
            config.model,
            len(config.data.classes),
            activation=config.data.activation,
            pretrained=False,
            spottuned=checkpoint.spottuned,
        )
    model.load_state_dict(without_branches(checkpoint.state, keep=config.model.branches))
    model.expect(checkpoint.preprocessing).eval()
    return SourceModel(
        model=model,
        path=path,
        sha256=checkpoint.sha256,
        domain=config.source,
        classes=config.data.classes,
        image_size=config.data.image_size,
        dice_in_domain_per_class=checkpoint.dice_in_domain_per_class,
        training=checkpoint.training,
        fingerprint=checkpoint.fingerprint,
    )


@lru_cache(maxsize=1)  # a large one has hundreds of megabytes
def _checkpoint(path: Path, state: tuple[int, ...]) -> Checkpoint:
    return read_checkpoint(path)


def without_branches(state: Mapping[str, Tensor], keep: Sequence[str]) -> dict[str, Tensor]:
    """The state dict without the branches that are not in ``keep``."""
    return {key: value for key, value in state.items() if not key.startswith("branches.") or key.split(".")[1] in keep}


def _content(path: Path, tensors: bool = True) -> Any:
    try:
        return read_torch_file(path, tensors=tensors)
    except TorchFileError as error:
        raise UserError(f"checkpoint {path} {error}") from None


def _is_own(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == own.FORMAT


def file_state(path: Path) -> tuple[int, ...]:
    """What changes whenever a file is written; nothing of one that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def file_sha256(path: Path) -> str:
    """Of all bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
