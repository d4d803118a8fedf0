"""State dicts that other training scripts wrote, of a network that is known here; nothing in a file is executed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.models.weights import some, state_faults, value_faults
from tta_bench.runtime.torch_file import AGAIN, TorchFileError, read_torch_file

NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts, Lightning among them, put a network's weights beside other things."""

CHECK = (
    "check model= and its keys, and that data.classes names as many classes as the network has outputs, the first of "
    "which is the background with data.exclusive=true (a softmax)"
)

TAKE_OUT = (
    "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW) takes the weights out of a checkpoint of "
    "Lightning, and torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW) out of a whole network"
)


@dataclass(frozen=True)
class Fitted:
    """The weights of a network that were found in a file.

    Attributes:
        state: under this project's names, as float32 where they were of another precision.
        prefix: that their names had in the file.
        left: first parts of the names of what else is in the file.
    """

    state: dict[str, Tensor]
    prefix: str
    left: tuple[str, ...]


def read_foreign(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The state dict in a file of ``torch.save``, bare or nested, or of safetensors; all names as they are there.

    Returns:
        The state dict, and the names of other ones that it is nested beside: averaged weights, for instance.

    Raises:
        UserError: it cannot be read, would execute code, or holds no state dict.
    """
    content, beside = _read(path), list[str]()
    while isinstance(content, Mapping):
        nest = next((key for key in NESTED if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            break
        beside += [str(key) for key, value in content.items() if key != nest and _holds_tensors(value)]
        content = content[nest]
    items = content.items() if isinstance(content, Mapping) else ()
    state = {key: value for key, value in items if isinstance(key, str)}
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path} holds no state dict, neither bare nor under {', '.join(NESTED)}: save the network's state_dict()"
        )
    return state, tuple(beside)


def fit(path: Path, state: Mapping[str, Any], expected: Mapping[str, Tensor], theirs: Mapping[str, str]) -> Fitted:
    """Find the weights of a network in a state dict, whatever prefix their names have there.

    Args:
        path: of the file, for messages.
        state: see :func:`read_foreign`.
        expected: the network's own state dict; of its tensors shapes and types count.
        theirs: our name of a weight -> its name in the library that the file comes from.

    Raises:
        UserError: it is another network, or two of this one; missing, unexpected or misshapen weights by name.
    """
    wanted = {theirs[key]: value for key, value in expected.items()}
    prefix = _prefix(path, state, wanted)
    parts = {key.partition(".")[0] for key in wanted}
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    own = {key: value for key, value in inside.items() if key.partition(".")[0] in parts}
    counts = {key: torch.zeros_like(value, device="cpu") for key, value in wanted.items() if _is_count(key)}
    # Exporters leave out what only training needs, or write it like a weight, in half precision for instance.
    own = counts | {key: value for key, value in own.items() if key not in counts or not _is_floating(value)}
    if faults := state_faults(own, wanted):
        raise UserError([f"{path} does not fit the network: {fault}: {CHECK}" for fault in faults])
    if faults := value_faults(own):
        raise UserError([f"{path} has {fault}: {AGAIN}" for fault in faults])
    others = [key for key in state if not (key.startswith(prefix) and key.removeprefix(prefix) in own)]
    return Fitted(
        {key: own[theirs[key]].to(value.dtype) for key, value in expected.items()},
        prefix,
        tuple(dict.fromkeys(key.partition(".")[0] for key in others)),
    )


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path, device="cpu")
        except Exception as error:  # of many kinds, none documented
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise UserError(f"{path} cannot be read ({reason}): get it again") from None
    try:
        return read_torch_file(path)
    except TorchFileError as error:
        trusted = ""
        if "execute code" in error.reason:
            trusted = f"; where you trust the file, {TAKE_OUT}"
        raise UserError(f"{path} {error}{trusted}") from None


def _prefix(path: Path, state: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> str:
    """What stands before the network's names in the file: ``model.``, ``module._orig_mod.``, or nothing."""
    found = Counter(key[:start] for key in state for start in _starts(key) if key[start:] in wanted)
    ranked = found.most_common(2)
    if not ranked or ranked[0][1] < len(wanted) / 2:
        shown = some([key for key in state if isinstance(state[key], Tensor)])
        raise UserError(
            f"{path} does not hold this network: it has {shown}, and not {some(list(wanted)[:3])}, …: {CHECK}"
        )
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        names = " and ".join(f"'{prefix}'" for prefix, _ in ranked)
        raise UserError(f"{path} holds two such networks, {names}: save the state_dict() of one of them alone")
    return ranked[0][0]


def _starts(key: str) -> Iterator[int]:
    """Where a name may begin: at its first letter, and after each dot."""
    yield 0
    yield from (place + 1 for place, mark in enumerate(key) if mark == ".")


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values())


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_count(key: str) -> bool:
    return key.endswith("num_batches_tracked")
