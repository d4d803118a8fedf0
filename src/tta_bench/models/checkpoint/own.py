"""The workbench's own checkpoint: tensors, and plain values that say what they are."""

from __future__ import annotations

import io
import reprlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.models.build import build_model, preprocessing_of
from tta_bench.models.checkpoint.content import Description
from tta_bench.models.checkpoint.schema import description_faults
from tta_bench.models.weights import shapes_of, state_faults
from tta_bench.ops.geometry import Fit, ScoreAt
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.ops.probabilities import Activation
from tta_bench.runtime.files import write_atomically

FORMAT = "tta_bench source model"
FORMAT_VERSION = 1
PAPERS = "min-max per image"
"""How a file says that its preprocessing is the paper's; any other stands there field by field."""


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    architecture: Mapping[str, Any],
    preprocessing: Preprocessing,
    classes: Mapping[str, Sequence[int]],
    spottuned: Sequence[Sequence[str]] | None = None,
    activation: Activation = "sigmoid",
    image_size: int,
    fit: Fit = "stretch",
    score_at: ScoreAt = "network",
    domain: str | None,
    fingerprint: str | None = None,
    intensity: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    more_epochs: int | None = None,
    dice_in_domain_per_class: Mapping[str, float] | None = None,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write the workbench's own format under a temporary name, then rename: never half a file.

    Args:
        path: the file to write; its folder is made.
        state: ``model.state_dict()``.
        architecture: fields of ``ModelConfig``, plain values, without the preprocessing.
        preprocessing: of the images.
        classes: class name -> mask values.
        spottuned: the layers of :mod:`~tta_bench.models.spottuned`, or None for a network that has its layers once.
        activation: what the logits stand for.
        image_size: side of the square input, pixels.
        fit: how images become the square.
        score_at: size at which the in-domain Dice was measured.
        domain: name of the source domain, or None where unknown.
        fingerprint: of its data, or None where unknown.
        intensity: fields of ``IntensityConfig``, plain values, or None for none.
        training: fields of ``TrainingConfig``, plain values, or None where unknown.
        more_epochs: how many it had, where ``training`` says fewer and asks for more steps than they give.
        dice_in_domain_per_class: percent, or None where not measured.
        origin: ``file`` and ``sha256`` of what it was imported from, if it was.
    """
    from tta_bench import __version__

    payload = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tta_bench": __version__,
        "architecture": _interned(dict(architecture)),
        "classes": {name: list(values) for name, values in classes.items()},
        **({} if spottuned is None else {"spottuned": _interned([list(names) for names in spottuned])}),
        # Younger than many files, whose bytes stay what they are.
        **({"activation": activation} if activation != "sigmoid" else {}),
        "image_size": image_size,
        **({"fit": fit} if fit != "stretch" else {}),
        **({"score_at": score_at} if score_at != "network" else {}),
        "preprocessing": _stored(preprocessing),
        "domain": domain,
        "fingerprint": fingerprint,
        **({} if intensity is None else {"intensity": dict(intensity)}),
        "training": None if training is None else dict(training),
        **({} if more_epochs is None else {"more_epochs": more_epochs}),
        "dice_in_domain": None if dice_in_domain_per_class is None else dict(dice_in_domain_per_class),
        **({} if origin is None else {"origin": dict(origin)}),
        "state": {key: value.detach().cpu().contiguous().clone() for key, value in state.items()},
    }
    # Through memory, because torch.save writes the file's name into the archive: equal models, equal bytes.
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_atomically(path, buffer.getvalue())


def _interned(value: Any) -> Any:
    """Equal texts as one object, which a pickle stores once: equal models give equal bytes, whoever made the texts."""
    if isinstance(value, dict):
        return {_interned(key): _interned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_interned(inner) for inner in value]
    return sys.intern(value) if type(value) is str else value


def describe(path: Path, content: dict[str, Any]) -> Description:
    """What the content of a file says, its weights apart.

    Raises:
        UserError: an unknown version, incomplete, or values that cannot be.
    """
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"checkpoint {path}: its format_version is {reprlib.repr(version)}, this tta_bench reads {FORMAT_VERSION}: "
            "use the tta_bench that wrote it, or train it again"
        )
    preprocessing = _read(path, content.get("preprocessing"))
    faults = description_faults(content)
    if faults:
        raise UserError([f"checkpoint {path} {fault}: it was edited or damaged; train it again" for fault in faults])
    return Description(
        path=path,
        format=FORMAT,
        architecture=content["architecture"],
        classes={name: tuple(values) for name, values in content["classes"].items()},
        spottuned=content.get("spottuned"),
        activation=content.get("activation", "sigmoid"),
        image_size=content["image_size"],
        fit=content.get("fit", "stretch"),
        score_at=content.get("score_at", "network"),
        preprocessing=preprocessing,
        domain=content["domain"],
        fingerprint=content["fingerprint"],
        intensity=content.get("intensity"),
        training=content["training"],
        more_epochs=content.get("more_epochs"),
        dice_in_domain_per_class=content["dice_in_domain"],
        version=content["tta_bench"],
        origin=content.get("origin"),
    )


def _stored(preprocessing: Preprocessing) -> Any:
    """As plain values, none of which is at its default."""
    given = {key: value for key, value in preprocessing.content().items() if value is not None}
    return (
        PAPERS if preprocessing.content() == PAPER.content() else {key: _plain(value) for key, value in given.items()}
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read(path: Path, stored: Any) -> Preprocessing:
    """The preprocessing that a file names.

    Raises:
        UserError: none that is known here.
    """
    from tta_bench.runtime.sections import PreprocessingConfig

    try:
        config = None if stored == PAPERS else PreprocessingConfig.model_validate(stored)
    except ValidationError:
        raise UserError(
            f"checkpoint {path}: its preprocessing is {reprlib.repr(stored)}, which this tta_bench does not have: "
            "use the tta_bench that wrote it"
        ) from None
    return preprocessing_of(config)


def weights(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict of a content that :func:`describe` has passed.

    Raises:
        UserError: it is not that of the network that the file describes.
    """
    state = content["state"]
    faults = state_faults(state, _shapes(path, content))
    if faults:
        raise UserError([f"checkpoint {path}: {fault}: the file is damaged; train it again" for fault in faults])
    return state


def _shapes(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the network that a checkpoint of ours describes, without their values."""
    from tta_bench.schema import ModelConfig

    architecture, classes = content["architecture"], len(content["classes"])
    activation, spottuned = content.get("activation", "sigmoid"), content.get("spottuned")
    # Taken as it is: whether encoder weights can be had on this machine does not matter any more.
    config = ModelConfig.model_construct(**architecture)
    try:
        return shapes_of(
            lambda: build_model(config, classes, activation=activation, pretrained=False, spottuned=spottuned)
        )
    except UserError as error:
        raise UserError([f"checkpoint {path}: {fault}" for fault in error.faults]) from None
    except Exception as error:  # of a plug-in's network, of any kind
        raise UserError(
            f"checkpoint {path}: its network {architecture['name']} cannot be built ({type(error).__name__}: {error}): "
            "the file is damaged, or the network is another since; train it again"
        ) from None
