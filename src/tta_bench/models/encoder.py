"""Encoders of segmentation-models-pytorch, with a clear sentence when their weights cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tta_bench.errors import UserError, nearest
from tta_bench.models.by_pixel import by_pixel
from tta_bench.models.encoder_weights import check_weights_file, load_weights_file, once, weights_file
from tta_bench.runtime.numerics import placement

if TYPE_CHECKING:
    from tta_bench.schema import ModelConfig

DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""The library's default widths of the five decoder blocks, one for each scale of the encoder."""

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Encoders that are known without the library, which takes seconds to import; the paper's is among them."""


def check_encoder_section(config: ModelConfig) -> None:
    """Check what the model section says of a network with an encoder of the library.

    Raises:
        UserError: no or an unknown encoder, no such file of weights, options, or not five decoder widths.
    """
    if config.encoder is None:
        raise UserError("'model.encoder' is missing: add model.encoder=...")
    check_encoder(config.encoder)
    check_weights_file(config.encoder_weights)
    if config.decoder_channels is not None and len(config.decoder_channels) != len(DECODER_CHANNELS):
        widths = list(config.decoder_channels)
        raise UserError(f"model.decoder_channels={widths} has {len(widths)} widths: give five, coarse to fine")
    if config.options:
        raise UserError(f"model={config.name} has no options: remove model.options")


def check_encoder(name: str) -> None:
    """Raise UserError with the nearest valid name if there is no such encoder.

    ``tu-NAME`` is the model NAME of timm, with or without the tag of its weights.
    """
    if name in RESNETS:
        return
    import timm
    from segmentation_models_pytorch.encoders import encoders, is_equivalent_to_timm_universal

    if name in encoders:
        return
    if is_equivalent_to_timm_universal(name):  # as the library translates it
        model = name.removeprefix("timm-").replace("mobilenetv3", "tf_mobilenetv3")
    else:
        model = name.removeprefix("tu-") if name.startswith("tu-") else ""
    if not timm.is_model(model):
        known = [f"tu-{model}" for model in timm.list_models()] if name.startswith("tu-") else encoders
        hint = nearest(name, known)
        if not hint.startswith("did you mean"):  # a list of hundreds is no help
            hint = "see the encoders of segmentation-models-pytorch, or tu-NAME for one of timm"
        raise UserError(f"unknown encoder model.encoder={name}: {hint}")


def build_encoder(name: str, weights: str | None) -> nn.Module:
    """An encoder of depth 5 for RGB images.

    Args:
        name: in the library.
        weights: name of pretrained ones, path of a file of them, or None for random ones.

    Raises:
        UserError: unknown encoder or weights, or weights that cannot be downloaded or read.
    """
    from segmentation_models_pytorch.encoders import get_encoder

    check_encoder(name)
    path = weights_file(weights)
    try:
        if weights is None or path is not None:
            encoder = get_encoder(name, in_channels=3, depth=5, weights=None)
        else:
            encoder = once(name, weights, lambda: get_encoder(name, in_channels=3, depth=5, weights=weights))
    except KeyError as error:
        raise UserError(
            f"encoder {name} has no weights '{weights}' ({error}): use model.encoder_weights=imagenet, PATH or null"
        ) from None
    if path is not None:
        load_weights_file(encoder, path, name)
    return faster_stem(encoder)


def faster_stem(encoder: Any) -> Any:
    """The encoder itself, with :class:`StemMaxPool` where it has such a layer."""
    if isinstance(getattr(encoder, "maxpool", None), nn.MaxPool2d):
        encoder.maxpool = StemMaxPool(encoder.maxpool)
    return encoder


class StemMaxPool(nn.Module):
    """The 3x3 max pooling of stride 2 behind a ResNet's first convolution.

    Where no gradient is needed, and maps lie plane by plane, it takes maxima of rows, then of columns: bit for bit the
    same, in a tenth of the time on a CPU. With a gradient torch's own is used, which sends it to one of several equal
    maxima.

    Args:
        original: the layer to replace; other sizes and strides keep using it.
    """

    def __init__(self, original: nn.MaxPool2d) -> None:
        super().__init__()
        self.original = original
        self.is_usual = (original.kernel_size, original.stride, original.padding) == (3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H/2, W/2]``."""
        faster = placement(x.device, x.dtype).composed and not by_pixel(x) and not torch.is_grad_enabled()
        if not faster or not self.is_usual or x.shape[2] % 2 or x.shape[3] % 2:
            return self.original(x)
        rows = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
        rows[:, :, 1:] = torch.maximum(rows[:, :, 1:], x[:, :, 1:-1:2])
        pooled = torch.maximum(rows[..., 0::2], rows[..., 1::2])
        pooled[..., 1:] = torch.maximum(pooled[..., 1:], rows[..., 1:-1:2])
        return pooled
