"""Any U-Net of segmentation-models-pytorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tta_bench.models.encoder import build_encoder
from tta_bench.models.segmentation import SegmentationModel

DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""The library's default widths of the five decoder blocks."""


class UNet(SegmentationModel):
    """The library's U-Net decoder on any of its encoders.

    Args:
        encoder: encoder name, for instance ``resnet18``.
        classes: sigmoid channels of the output.
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

    def encode(self, images: Tensor) -> list[Tensor]:
        """The image itself, then features at 1/2 to 1/32 of its resolution."""
        return self.encoder(images)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Input of the classifier: ``[N, decoder_channels[-1], H, W]``."""
        return self.decoder(features)

    def classify(self, head_input: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]``."""
        return self.head(head_input)
