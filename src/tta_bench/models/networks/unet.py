"""Any U-Net of segmentation-models-pytorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from tta_bench.models.encoder import DECODER_CHANNELS, build_encoder, check_encoder_section
from tta_bench.models.segmentation import SegmentationModel, register_network

if TYPE_CHECKING:
    from tta_bench.schema import ModelConfig


@register_network("unet")
class UNet(SegmentationModel):
    """The library's U-Net decoder on any of its encoders.

    Args:
        encoder: encoder name, for instance ``resnet18``.
        classes: channels of the output.
        encoder_weights: ``"imagenet"`` or None for random weights.
        decoder_channels: widths of the five decoder blocks, coarse to fine.
        branches: auxiliary branches, see :class:`SegmentationModel`.

    Raises:
        UserError: unknown encoder, or weights that cannot be downloaded.
    """

    def __init__(
        self,
        encoder: str,
        classes: int,
        encoder_weights: str | None = None,
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
        branches: Sequence[str] = (),
    ) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        encoder_network: Any = build_encoder(encoder, encoder_weights)
        super().__init__(encoder_network.out_channels[-1], branches)
        self.encoder = encoder_network
        self.decoder = UnetDecoder(
            encoder_channels=encoder_network.out_channels,
            decoder_channels=tuple(decoder_channels),
            n_blocks=len(decoder_channels),
        )
        self.head = SegmentationHead(decoder_channels[-1], classes, kernel_size=3)

    @classmethod
    def configured(cls, config: ModelConfig, classes: int, encoder_weights: str | None) -> Self:
        """See :class:`SegmentationModel`."""
        assert config.encoder is not None
        widths = config.decoder_channels or DECODER_CHANNELS
        return cls(config.encoder, classes, encoder_weights, widths, config.branches)

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """See :class:`SegmentationModel`."""
        check_encoder_section(config)

    @classmethod
    def differences(cls, architecture: Mapping[str, Any], config: ModelConfig) -> list[str]:
        """See :class:`SegmentationModel`."""
        faults = []
        if architecture["encoder"] != config.encoder:
            faults.append(
                f"its encoder is {architecture['encoder']}, but model.encoder={config.encoder}: "
                f"use model.encoder={architecture['encoder']}"
            )
        stored = list(architecture["decoder_channels"] or DECODER_CHANNELS)
        asked = list(config.decoder_channels or DECODER_CHANNELS)
        if stored != asked:
            faults.append(
                f"its decoder widths are {stored}, but model.decoder_channels={asked}: "
                f"use model.decoder_channels={str(stored).replace(' ', '')}"
            )
        return faults

    @classmethod
    def name_elsewhere(cls, key: str) -> str:
        """See :class:`SegmentationModel`."""
        return f"segmentation_{key}" if key.startswith("head.") else key

    def encode(self, images: Tensor) -> list[Tensor]:
        """The image itself, then features at 1/2 to 1/32 of its resolution."""
        return self.encoder(images)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Input of the classifier: ``[N, decoder_channels[-1], H, W]``."""
        return self.decoder(features)

    def classify(self, head_input: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]``."""
        return self.head(head_input)
