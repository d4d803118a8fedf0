"""Encoders of segmentation-models-pytorch, with a clear sentence when their weights cannot be had."""

from __future__ import annotations

from torch import nn

from tta_bench.errors import UserError, nearest


def check_encoder(name: str) -> None:
    """Raise UserError with the nearest valid name if the library has no such encoder."""
    from segmentation_models_pytorch.encoders import encoders

    if name not in encoders and not name.startswith("tu-"):
        raise UserError(f"unknown encoder model.encoder={name}: {nearest(name, encoders)}")


def build_encoder(name: str, weights: str | None) -> nn.Module:
    """An encoder of depth 5 for RGB images.

    Raises:
        UserError: unknown encoder or weights, or weights that cannot be downloaded.
    """
    from segmentation_models_pytorch.encoders import get_encoder

    check_encoder(name)
    try:
        return get_encoder(name, in_channels=3, depth=5, weights=weights)
    except KeyError as error:
        raise UserError(
            f"encoder {name} has no weights '{weights}' ({error}): use model.encoder_weights=imagenet or null"
        ) from None
    except OSError as error:
        raise download_failed(name, weights, error) from None


def download_failed(name: str, weights: str | None, error: Exception) -> UserError:
    """The sentence for weights that cannot be downloaded."""
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return UserError(
        f"the {weights} weights of encoder {name} could not be downloaded ({reason}): connect to the network "
        "once, or start from random weights with model.encoder_weights=null"
    )
