"""Pretrained weights of an encoder: from a file, from the hub's cache, or, once, over the network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tta_bench.errors import UserError
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
"""Of files of weights; anything else in ``model.encoder_weights`` is a name, such as ``imagenet``."""

_downloads: dict[tuple[str, str], UserError] = {}
"""Weights that could not be had in this process: the next network that wants them is refused at once."""


def weights_file(weights: str | None) -> Path | None:
    """The file that ``model.encoder_weights`` names; None for the name of weights on the hub, and for none."""
    if weights is None or not (weights.endswith(SUFFIXES) or "/" in weights or "\\" in weights):
        return None
    return Path(weights).expanduser()


def check_weights_file(weights: str | None) -> None:
    """Raise UserError if ``model.encoder_weights`` names a file that is not there."""
    path = weights_file(weights)
    if path is not None and not path.is_file():
        raise UserError(
            f"model.encoder_weights={weights} is not a file: give a state dict of the encoder "
            f"({', '.join(SUFFIXES)}), imagenet, or null for random weights"
        )


@cache
def digest(path: Path) -> str:
    """SHA-256 of a file of weights, which is what a network trained from them depends on."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights_file(encoder: nn.Module, path: Path, name: str) -> None:
    """Fill an encoder from a state dict of itself, in whatever network that was saved.

    Weights that the encoder does not have, such as those of a classifier, are left in the file.

    Args:
        encoder: to be filled in place.
        path: ``.safetensors``, or a file of ``torch.save`` that holds tensors and plain values alone.
        name: of the encoder, for messages.

    Raises:
        UserError: the file cannot be read, or lacks weights of the encoder, or has them in other shapes.
    """
    state = _tensors(_read(path))
    expected = encoder.state_dict()
    candidates = _renamed(state, next(iter(expected)))
    best = min(candidates, key=lambda named: sum(key not in named for key in expected), default={})
    missing = [key for key in expected if key not in best and not key.endswith("num_batches_tracked")]
    shapes = [key for key in expected if key in best and best[key].shape != expected[key].shape]
    if missing or shapes:
        kind, keys = ("lacks", missing) if missing else ("has other shapes of", shapes)
        raise UserError(
            f"model.encoder_weights={path} {kind} {len(keys)} of the {len(expected)} weights of encoder {name}, such "
            f"as {keys[0]}: give a state dict of this encoder"
        )
    encoder.load_state_dict(expected | {key: value for key, value in best.items() if key in expected})


def _read(path: Path) -> Any:
    """The content of a file of weights."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path, device="cpu")
        return read_torch_file(path)
    except TorchFileError as error:
        raise UserError(f"model.encoder_weights={path} {error}") from None
    except Exception as error:  # of many kinds, none documented
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(
            f"model.encoder_weights={path} cannot be read ({reason}): save the encoder's state_dict() again"
        ) from None


def _tensors(content: Any) -> dict[str, Tensor]:
    """The state dict, which some training scripts store under a key beside other things."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        content = inner
    return {}


def _renamed(state: Mapping[str, Tensor], first: str) -> Iterator[dict[str, Tensor]]:
    """The part of a state dict that may be an encoder, under the encoder's names: where its first weight is found."""
    for inside in ("", "model."):  # the library wraps the networks of timm once more
        name = first.removeprefix(inside)
        for prefix in [key.removesuffix(name) for key in state if f".{key}".endswith(f".{name}")]:
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            yield {inside + key: value for key, value in part.items()}


def once(name: str, weights: str, download: Callable[[], nn.Module]) -> nn.Module:
    """Run a download unless the same one has failed in this process: it retries for many seconds.

    Raises:
        UserError: the weights cannot be downloaded.
    """
    if (name, weights) in _downloads:
        raise _downloads[name, weights]
    try:
        return download()
    except OSError as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        failed = UserError(
            f"the {weights} weights of encoder {name} could not be downloaded ({reason}): connect to the network "
            "once, give a file with model.encoder_weights=PATH, or start from random weights with "
            "model.encoder_weights=null"
        )
        _downloads[name, weights] = failed
        raise failed from None
