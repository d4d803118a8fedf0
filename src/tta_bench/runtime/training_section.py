"""The section ``training`` of the configuration, which checkpoints store, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tta_bench.runtime.ranges import Decay, Fraction, NonNegative, Positive, Range, Seed
from tta_bench.runtime.sections import Section, ascending

Zoom = Annotated[float, Range(0.01, 100)]
"""A hundredth of an image is a pixel or two, and so is what is seen of it at a hundredfold size."""

Grey = Annotated[float, Range(0, 255)]
"""In grey levels, or a factor of them: any more leaves no image."""


class AugmentationConfig(Section):
    """Augmentation of source images; ``p`` is the probability of each operation per image."""

    flip: Fraction
    affine: Fraction
    rotation_degrees: Annotated[float, Range(0, 180)]
    scale: Annotated[tuple[Zoom, Zoom], ascending("training.augmentation.scale")]
    elastic: Fraction
    brightness: Fraction
    brightness_range: Annotated[tuple[Grey, Grey], ascending("training.augmentation.brightness_range")]
    noise: Fraction
    noise_range: Annotated[tuple[Grey, Grey], ascending("training.augmentation.noise_range")] = Field(
        description="standard deviation, in grey levels of 0-255"
    )


class TrainingConfig(Section):
    """How the source model is trained (``conf/training``)."""

    name: str
    epochs: Annotated[int, Range(1, 10**6)]
    min_steps: Annotated[int, Range(0, 10**9)] | None = Field(
        default=None, description="more epochs until there are so many; null: as many as 80 training images give"
    )
    keep: Literal["last", "best"] | None = Field(
        default=None, description="weights of the last epoch, or of the one that is best on the held-out images"
    )
    patience: Annotated[int, Range(1, 10**6)] | None = Field(
        default=None, description="stop after so many epochs without a better held-out Dice, not before min_steps"
    )
    precision: Literal["f32", "bf16"] | None = Field(
        default=None, description="of convolutions; weights, losses and the examination stay in float32"
    )
    batch_size: Annotated[int, Range(2, 2**16)]
    optimizer: Literal["sgd", "adam", "avagrad"]
    learning_rate: Positive
    momentum: Decay
    nesterov: bool
    weight_decay: NonNegative
    epsilon: Positive | None = Field(default=None, description="of avagrad")
    bias_correction: bool | None = Field(default=None, description="of avagrad's averages, as in its authors' code")
    consistency: NonNegative | None = Field(
        default=None,
        description="weight of the consistency between images and recoloured copies, which are trained on, too; "
        "null: no copies",
    )
    schedule_power: NonNegative = Field(description="lr * (1 - epoch / epochs) ** power")
    holdout: Annotated[float, Range(0, 1, "[)")] = Field(
        description="fraction of source images kept for the in-domain Dice"
    )
    seed: Seed
    workers: Annotated[int, Range(0, 2**10)] = Field(description="processes that augment images; changes speed only")
    legacy_unaligned_mask: bool
    branch_weights: dict[str, NonNegative] = Field(
        description="branch -> weight of its loss beside the segmentation loss of weight 1"
    )
    augmentation: AugmentationConfig

    def content(self, branches: Sequence[str]) -> dict[str, Any]:
        """All that determines the weights of a network with these branches; labels and speed are left out."""
        content = self.model_dump(
            mode="json", exclude={"name", "workers"} | (set() if branches else {"branch_weights"})
        )
        return content if self.optimizer == "sgd" else content | {"momentum": 0.0, "nesterov": False}  # of SGD alone

    @model_validator(mode="after")
    def _there_are_images_to_choose_by(self) -> TrainingConfig:
        if self.holdout == 0 and (self.keep == "best" or self.patience is not None):
            key = "training.keep=best" if self.keep == "best" else f"training.patience={self.patience}"
            raise ValueError(
                f"{key} goes by the Dice on held-out images, and training.holdout=0 holds none out: set "
                "training.holdout=0.2 or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _avagrad_has_its_options(self) -> TrainingConfig:
        if self.optimizer == "avagrad" and (self.epsilon is None or self.bias_correction is None):
            raise ValueError(
                "training.optimizer=avagrad needs training.epsilon and training.bias_correction: give 0.1 and true"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_younger_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """These keys are younger than many source models, whose identity is that of the defaults."""
        usual: dict[str, Any] = {"min_steps": None, "keep": "last", "patience": None, "precision": "f32"}
        usual |= {"consistency": None}
        if self.optimizer != "avagrad":
            usual |= {"epsilon": self.epsilon, "bias_correction": self.bias_correction}
        return {key: value for key, value in dump(self).items() if key not in usual or value not in (None, usual[key])}
