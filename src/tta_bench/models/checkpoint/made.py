"""A model that is made once, by whichever process comes first, and read ever after."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tta_bench.errors import UserError
from tta_bench.models.checkpoint.content import SourceModel
from tta_bench.models.checkpoint.load import load_checkpoint
from tta_bench.runtime.files import move_aside, warn_once
from tta_bench.runtime.locks import acquire_lock
from tta_bench.schema import RunConfig

log = logging.getLogger(__name__)


def made_once(path: Path, config: RunConfig, make: Callable[[], None], *, doing: str, again: str) -> SourceModel:
    """The model at a path: read where it was made before, else made now; of two processes one waits for the other.

    Args:
        path: of its checkpoint, in a folder of its own.
        config: of the run.
        make: writes the checkpoint.
        doing: what a process that holds the folder does, as a clause.
        again: what is done where the file is damaged, as the beginning of a warning.

    Raises:
        UserError: as of ``make``.
    """
    if (made := _sound(path, config, again)) is not None:
        return made
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_file = path.with_name("lock")
    move_aside(lock_file)
    lock = acquire_lock(lock_file, doing)
    try:
        if (made := _sound(path, config, again)) is None:  # another process may have made it in the meantime
            make()
            made = load_checkpoint(path, config)
        return made
    finally:
        lock.release()


def _sound(path: Path, config: RunConfig, again: str) -> SourceModel | None:
    """The model that was made before; None, with a warning, if its file is damaged."""
    if not path.exists():
        return None
    try:
        return load_checkpoint(path, config)
    except UserError as error:
        warn_once(log, f"{again}: {error}")
        return None
