"""The adapted state in a file, so that tomorrow's images go on where today's have ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tta_bench.errors import UserError
from tta_bench.runtime.files import replacing, translate_os_errors
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file

FORMAT = "tta_bench adapted state"


def save_state(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the file by the state of a method, with what it belongs to.

    Raises:
        UserError: it cannot be written.
    """
    with translate_os_errors(path.parent, "with --state FILE"), replacing(path) as temporary:
        torch.save({"format": FORMAT, "identity": dict(identity), "state": dict(state)}, temporary)


def read_state(path: Path, name: Path | str, identity: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The state of a method, from :func:`save_state`; nothing in the file is executed.

    Args:
        path: the file.
        name: what messages call it.
        identity: what the state must belong to.
        device: where its tensors come.

    Raises:
        UserError: it is no such file, or of another method, checkpoint or protocol.
    """
    try:
        content = read_torch_file(path, device=str(device))
    except TorchFileError as error:
        raise UserError(f"--state {name} {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"--state {name} is no file that tta-bench predict has written: name another")
    saved = content["identity"]
    faults = []
    for key, mine in identity.items():
        theirs = saved.get(key)
        if theirs != mine:
            faults.append(f"--state {name} was saved with {key}={_short(theirs)}, and this is {key}={_short(mine)}")
    if faults:
        raise UserError([f"{fault}: use the same again, or another file" for fault in faults])
    state: dict[str, Any] = content["state"]
    return state


def _short(value: Any) -> str:
    """What an identity says, in few words."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={inner}" for key, inner in value.items())
    return str(value)[:12] if isinstance(value, str) else str(value)
