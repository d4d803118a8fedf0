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

_ANOTHER = "name a file that tta-bench predict has written, or one that is not there yet"


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
        raise UserError(f"--state {name} {error.reason}: {_ANOTHER}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"--state {name} is no state: {_ANOTHER}")
    saved = content["identity"]
    faults = []
    for key, mine in identity.items():
        theirs = saved.get(key)
        if theirs != mine:
            saved_with, now = _differing(key, theirs, mine)
            faults.append(f"--state {name} was saved with {saved_with}, and this is {now}")
    if faults:
        raise UserError([f"{fault}: use the same again, or another file" for fault in faults])
    state: dict[str, Any] = content["state"]
    return state


def _differing(key: str, theirs: Any, mine: Any) -> tuple[str, str]:
    """What two identities differ in, in few words each; two methods in their names."""
    if not isinstance(theirs, Mapping) or not isinstance(mine, Mapping):
        return f"{key}={str(theirs)[:12]}", f"{key}={str(mine)[:12]}"
    names = [name for name in {**theirs, **mine} if theirs.get(name) != mine.get(name)]
    if "name" in names:
        return f"{key}={theirs.get('name')}", f"{key}={mine.get('name')}"
    first, second = (", ".join(f"{key}.{name}={each.get(name)}" for name in names) for each in (theirs, mine))
    return first, second
