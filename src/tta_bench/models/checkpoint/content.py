"""What a checkpoint holds, and the source model that becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tta_bench.models.segmentation import SegmentationModel
from tta_bench.ops.geometry import Fit, ScoreAt
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.ops.probabilities import Activation


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a checkpoint file says of its weights; a field that the file does not record is None.

    Attributes:
        path: the file.
        format: of the file, for people.
        architecture: fields of ``ModelConfig``.
        classes: class name -> mask values that belong to it; no values where the file records none.
        spottuned: of an adapted model of two copies, the layers of :mod:`~tta_bench.models.spottuned`.
        activation: what the logits stand for.
        image_size: side of the square input, pixels.
        fit: how images become the square; see :class:`~tta_bench.ops.geometry.Geometry`.
        score_at: size at which the in-domain Dice was measured.
        preprocessing: of its images.
        domain: name of the domain it was trained on.
        fingerprint: of that domain's images and masks.
        intensity: fields of ``IntensityConfig``, by which pixel values became grey levels; None: by their type.
        training: fields of ``TrainingConfig``.
        more_epochs: how many it had, where ``training`` says fewer and asks for more steps than they give.
        dice_in_domain_per_class: percent on held-out images of the domain.
        version: of tta_bench, when the file was written.
        origin: ``file`` and ``sha256`` of what it was imported from; None where it was trained here.
    """

    path: Path
    format: str
    architecture: Mapping[str, Any]
    classes: Mapping[str, tuple[int, ...]]
    spottuned: Sequence[Sequence[str]] | None = None
    activation: Activation = "sigmoid"
    image_size: int | None = None
    fit: Fit = "stretch"
    score_at: ScoreAt = "network"
    preprocessing: Preprocessing = PAPER
    domain: str | None = None
    fingerprint: str | None = None
    intensity: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    more_epochs: int | None = None
    dice_in_domain_per_class: Mapping[str, float] | None = None
    version: str | None = None
    origin: Mapping[str, str] | None = None

    @property
    def dice_in_domain(self) -> float | None:
        """Mean over the classes of the in-domain Dice, percent; None where not measured."""
        return mean_dice(self.dice_in_domain_per_class)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Description):
    """A whole checkpoint file.

    Attributes:
        sha256: of the file's bytes.
        state: the network's state dict, with this project's names.
    """

    sha256: str
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class SourceModel:
    """A source model, ready to adapt.

    Attributes:
        model: the network, in eval mode on the CPU, with its preprocessing.
        path: the file it came from.
        sha256: of that file.
        domain: name of the domain it was trained on.
        classes: class name -> mask values, one output channel each, behind that of the background of a softmax.
        image_size: side of the square input, pixels.
        dice_in_domain_per_class: percent on held-out images of the domain; None where not measured.
        training: how it was trained, fields of ``TrainingConfig``; None where not recorded.
        fingerprint: of the domain's data; None where not recorded.
    """

    model: SegmentationModel
    path: Path
    sha256: str
    domain: str
    classes: Mapping[str, tuple[int, ...]]
    image_size: int
    dice_in_domain_per_class: Mapping[str, float] | None
    training: Mapping[str, Any] | None
    fingerprint: str | None

    @property
    def dice_in_domain(self) -> float | None:
        """Mean over the classes of the in-domain Dice, percent; None where not measured."""
        return mean_dice(self.dice_in_domain_per_class)


def mean_dice(per_class: Mapping[str, float] | None) -> float | None:
    """Unweighted mean over classes, or None where nothing was measured."""
    return sum(per_class.values()) / len(per_class) if per_class else None
