"""Any architecture of segmentation-models-pytorch on any of its encoders."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from tta_bench.errors import UserError, nearest
from tta_bench.models.encoder import build_encoder, check_encoder, faster_stem
from tta_bench.models.encoder_weights import check_weights_file
from tta_bench.models.segmentation import SegmentationModel, register_network

if TYPE_CHECKING:
    from tta_bench.schema import ModelConfig

ARCHITECTURES = (
    "DeepLabV3",
    "DeepLabV3Plus",
    "FPN",
    "Linknet",
    "MAnet",
    "PAN",
    "PSPNet",
    "Segformer",
    "UPerNet",
    "Unet",
    "UnetPlusPlus",
)
"""By the names of their classes in the library."""

FIXED_SIZE = ("DPT",)
"""Those whose encoders take images of one size alone."""

DILATED = ("DeepLabV3", "DeepLabV3Plus", "PAN", "PSPNet")
"""Those whose encoders end before 1/32 of the resolution, where auxiliary branches begin."""

OWN = (
    "self",
    "encoder_name",
    "encoder_depth",
    "encoder_weights",
    "in_channels",
    "classes",
    "activation",
    "aux_params",
    "kwargs",
)
"""Parameters of the classes that are no options: other keys say them."""


@register_network("smp")
class LibraryNetwork(SegmentationModel):
    """A network of the library, with its own names of all weights.

    Args:
        architecture: one of :data:`ARCHITECTURES`.
        encoder: encoder name, for instance ``resnet18``.
        classes: channels of the output.
        encoder_weights: ``"imagenet"``, the path of a file, or None for random weights.
        options: further parameters of the library's class, for instance ``decoder_channels``; None for its default.
        branches: auxiliary branches, see :class:`SegmentationModel`.

    Raises:
        UserError: unknown encoder, or weights that cannot be had.
    """

    def __init__(
        self,
        architecture: str,
        encoder: str,
        classes: int,
        encoder_weights: str | None = None,
        options: Mapping[str, Any] | None = None,
        branches: tuple[str, ...] = (),
    ) -> None:
        check_encoder(encoder)
        given = {key: value for key, value in (options or {}).items() if value is not None}
        network: Any = _class(architecture)(encoder, encoder_weights=None, classes=classes, **given)
        if encoder_weights is not None:
            pretrained = build_encoder(encoder, encoder_weights).state_dict()
            network.encoder.load_state_dict({key: pretrained[key] for key in network.encoder.state_dict()})
        super().__init__(network.encoder.out_channels[-1], branches)
        self.encoder = faster_stem(network.encoder)
        self.decoder: nn.Module = network.decoder
        self.segmentation_head: nn.Module = network.segmentation_head

    @classmethod
    def configured(cls, config: ModelConfig, classes: int, encoder_weights: str | None) -> Self:
        """See :class:`SegmentationModel`."""
        assert config.architecture is not None
        assert config.encoder is not None
        return cls(
            config.architecture, config.encoder, classes, encoder_weights, config.options, tuple(config.branches)
        )

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """See :class:`SegmentationModel`."""
        name, choices = config.architecture, nearest("", ARCHITECTURES)
        if name is None:
            raise UserError(f"'model.architecture' is missing: add model.architecture=NAME, {choices}")
        if name in FIXED_SIZE:
            raise UserError(f"model.architecture={name} takes images of one size alone: {choices}")
        if name not in ARCHITECTURES:
            hint = nearest(name.lower(), map(str.lower, ARCHITECTURES))
            for each in ARCHITECTURES:
                hint = hint.replace(f"'{each.lower()}'", f"'{each}'")
            if not hint.startswith("did you mean"):
                hint = choices
            raise UserError(f"unknown model.architecture={name}: {hint}")
        if config.encoder is None:
            raise UserError("'model.encoder' is missing: add model.encoder=...")
        check_encoder(config.encoder)
        check_weights_file(config.encoder_weights)
        if config.decoder_channels is not None:
            raise UserError(f"model=smp has no model.decoder_channels: give what {name} takes as model.options")
        known = [key for key in inspect.signature(_class(name).__init__).parameters if key not in OWN]
        faults = [
            f"unknown key 'model.options.{key}' of {name}: {nearest(key, known)}"
            for key, value in config.options.items()
            if value is not None and key not in known
        ]
        if name in DILATED and config.branches:
            faults.append(
                f"model.architecture={name} keeps a finer bottleneck than auxiliary branches begin at: remove "
                "model.branches, or choose another architecture"
            )
        if faults:
            raise UserError(faults)

    @classmethod
    def differences(cls, architecture: Mapping[str, Any], config: ModelConfig) -> list[str]:
        """See :class:`SegmentationModel`."""
        faults = [
            f"its {key} is {architecture[key]}, but model.{key}={getattr(config, key)}: "
            f"use model.{key}={architecture[key]}"
            for key in ("architecture", "encoder")
            if architecture[key] != getattr(config, key)
        ]
        return [*faults, *super().differences(architecture, config)]

    def encode(self, images: Tensor) -> list[Tensor]:
        """The image itself, then the encoder's features, finest first."""
        return self.encoder(images)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Input of the classifier, of some architectures at a fraction of the resolution: ``[N, channels, h, w]``."""
        return self.decoder(features)

    def classify(self, head_input: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]``."""
        return self.segmentation_head(head_input)


def _class(architecture: str) -> Any:
    """The class of the library."""
    import segmentation_models_pytorch as library

    return getattr(library, architecture)
