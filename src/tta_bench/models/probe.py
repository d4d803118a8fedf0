"""The probe: a wrapped network is run on two small images and compared with the source model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn

from tta_bench.errors import UserError
from tta_bench.models.normalisation import SourceStatistics
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.models.wrapping import calls_of, is_normalisation
from tta_bench.ops.probabilities import Activation

TOLERANCE, TOLERANCE_IN_LESS = 1e-5, 1e-3
"""Largest difference, relative to the largest output: in float64, and where there is no float64."""


@dataclass(frozen=True)
class Probe:
    """What the source model says.

    Attributes:
        images: ``[2, C, H, W]`` in [0, 1].
        expected: ``[1, classes, H, W]``, its output for the first image.
        dtype: that it had before it was converted to float64; None if it was not converted.
    """

    images: Tensor
    expected: Tensor
    dtype: torch.dtype | None


def take_probe(model: SegmentationModel, image_size: int | None) -> Probe:
    """Run the source model in eval mode; it is left in float64 where it and its device have that.

    Args:
        model: the source model, not yet wrapped.
        image_size: the only size that it may take, in pixels, or None.

    Raises:
        UserError: it takes no image, or its output is not finite.
    """
    tensors = [value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]
    dtypes = {value.dtype for value in tensors} or {torch.get_default_dtype()}
    device = tensors[0].device if tensors else torch.device("cpu")
    trained = next(iter(dtypes))
    has_float64 = len(dtypes) == 1 and device.type != "mps"
    precisions = list(dict.fromkeys((torch.float64, trained))) if has_float64 else [trained]
    fault: Exception | None = None
    is_finite = True
    for dtype in precisions:
        if len(dtypes) == 1:
            model.to(dtype)
        for size in dict.fromkeys((*model.probe_sizes, image_size or model.probe_sizes[-1])):
            images = probe_images(size, model.in_channels).to(device, dtype)
            try:
                expected = _undisturbed(partial(model, images[:1]))
                if not isinstance(expected, Tensor) or expected.dim() != 4:
                    raise TypeError("its output is not logits [N, classes, H, W]")
            except Exception as error:  # of a user's network, of any kind
                fault = error
                continue
            if expected.isfinite().all():
                return Probe(images, expected, trained if dtype != trained else None)
            is_finite = False
    if not is_finite:
        raise UserError("the source model's output is not finite (NaN or infinity): train it again")
    side = image_size or model.probe_sizes[-1]
    raise UserError(
        f"the network cannot take an image of {side} x {side} pixels "
        f"({brief(fault)}): choose another network or data.image_size"
    )


@torch.no_grad()
def check_probe(probe: Probe, network: nn.Module, theta: Tensor) -> Counter[nn.Module]:
    """Compare a wrapped network with the source model, and two streams side by side with one on its own.

    Args:
        probe: of the source model.
        network: ``network(images, theta, statistics)``, in the precision of the probe.
        theta: the source model's row, ``[scalars]``.

    Returns:
        How often one pass calls each module.

    Raises:
        UserError: it differs, or does not run.
    """
    shifted = 0.9 * theta + 0.01

    def run(images: Tensor, *rows: Tensor) -> Tensor:
        return _undisturbed(lambda: network(images, torch.stack(rows), SourceStatistics()))

    try:
        together, calls = calls_of(lambda: run(probe.images, theta, shifted))
        inside = set(network.modules())
        outside = [type(module).__name__ for module in calls if is_normalisation(module) and module not in inside]
        if outside:
            raise UserError(
                f"the network calls a {outside[0]} that is none of its submodules, so that it cannot be adapted: "
                "assign the layer to an attribute of its module"
            )
        alone = run(probe.images[1:], shifted)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the network cannot be adapted: with its normalisation layers replaced it does not run ({brief(error)}); "
            "choose another network"
        ) from error
    tolerance = TOLERANCE if probe.images.dtype == torch.float64 else TOLERANCE_IN_LESS
    difference = relative_difference(together[:1], probe.expected)
    if not difference <= tolerance:
        raise UserError(
            "the network cannot be adapted: with its normalisation layers replaced its output under source statistics "
            f"is not that of the source model (relative difference {difference:.1g}); choose another network"
        )
    difference = relative_difference(together[1:], alone)
    if not difference <= tolerance:
        raise UserError(
            "the network cannot be adapted: its output for one image depends on the others of a batch "
            f"(relative difference {difference:.1g}); choose another network"
        )
    return calls


def check_activation(activation: str, channels: int) -> None:
    """Refuse what the logits of a network cannot stand for."""
    if activation not in get_args(Activation):
        raise UserError(f"the network's activation is '{activation}': give one of {', '.join(get_args(Activation))}")
    if activation == "softmax" and channels < 2:
        raise UserError(
            "the network has one channel, which a softmax makes 1 everywhere: give the background a channel of its "
            "own, or use the activation sigmoid"
        )


def probe_images(size: int, channels: int = 3) -> Tensor:
    """Two different images with edges and gradients, the same at every call: ``[2, C, size, size]`` in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, channels, size, size, generator=generator, dtype=torch.float64)
    ramp = torch.linspace(0, 1, size, dtype=torch.float64)
    disc = (ramp[:, None] - 0.5).square() + (ramp - 0.5).square() < torch.tensor([0.04, 0.1])[:, None, None]
    return 0.5 * disc[:, None] + 0.3 * ramp + 0.2 * noise


def relative_difference(value: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, as a fraction of the largest expected value."""
    difference = float((value - expected).abs().max())
    return difference / float(expected.abs().max()) if difference else 0.0


def brief(error: Exception | None) -> str:
    """The first line of an exception, for a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _undisturbed(run: Callable[[], Tensor]) -> Tensor:
    """Run without gradients, and leave the random state as it was."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return run()
