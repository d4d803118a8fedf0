"""CateNorm (Xiao et al., DART 2022): a second normalisation whose scale and shift depend on the predicted classes.

The network runs twice. The first pass is that of the plain network. What it predicts is a constant of the second one,
in which the layers that are replaced here normalise by statistics of their own, and scale and shift every pixel by
what two convolutions make of the prediction around it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.errors import UserError
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.models.wrapping import after

PROBE_SIZE = 64
"""Side of the image, pixels, that tells at which resolution a layer normalises."""


class CategoricalNorm(nn.Module):
    """A ``BatchNorm2d`` for the first pass, and its categorical counterpart for the second.

    Args:
        trained: the layer in whose place it stands.
        classes: channels of the network's logits.

    Attributes:
        prediction: ``[N, classes, H, W]``, probabilities of the first pass while the second one runs; else None.
    """

    def __init__(self, trained: nn.BatchNorm2d, classes: int) -> None:
        super().__init__()
        channels = trained.num_features
        self.first = trained
        self.second = nn.BatchNorm2d(channels, trained.eps, trained.momentum, affine=False)
        self.shared = nn.Conv2d(classes, max(1, channels // 2), kernel_size=3, padding=1)
        self.scale = nn.Conv2d(self.shared.out_channels, channels, kernel_size=3, padding=1)
        self.shift = nn.Conv2d(self.shared.out_channels, channels, kernel_size=3, padding=1)
        self.after = nn.Sequential(*(after(trained) or ()))
        self.prediction: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` to the same shape."""
        if self.prediction is None:
            return self.first(x)
        seen = F.interpolate(self.prediction.to(x.dtype), x.shape[-2:], mode="bilinear", align_corners=True)
        seen = F.relu(self.shared(seen))
        return self.after(self.second(x) * (1 + self.scale(seen)) + self.shift(seen))


def add_categorical_norm(network: SegmentationModel, classes: int, blocks: int) -> None:
    """Put :class:`CategoricalNorm` in the place of the encoder's layers, those of its finest resolutions.

    Args:
        network: changed in place.
        classes: channels of its logits.
        blocks: how many resolutions.

    Raises:
        UserError: its encoder has no ``BatchNorm2d`` that can be replaced.
    """
    sizes = _sizes(network)
    finest = sorted(set(sizes.values()), reverse=True)[:blocks]
    replaced = {layer: CategoricalNorm(layer, classes) for layer, size in sizes.items() if size in finest}
    if not replaced:
        raise UserError(
            "model.norm=catenorm replaces BatchNorm layers of the encoder, and this network's has none that can be: "
            "leave it out, or choose another encoder, model.encoder=resnet18 for instance"
        )
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, nn.BatchNorm2d) and child in replaced and not isinstance(parent, CategoricalNorm):
                parent._modules[name] = replaced[child]
    network.categorical = list(replaced.values())


def _sizes(network: SegmentationModel) -> dict[nn.BatchNorm2d, int]:
    """The layers that the encoder runs, in their order, each with the number of pixels that it normalises."""
    sizes: dict[nn.BatchNorm2d, int] = {}
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and after(layer) is not None
    ]

    def look(layer: nn.BatchNorm2d, inputs: tuple[Tensor], output: Tensor) -> None:
        sizes[layer] = output.shape[2:].numel()

    handles = [layer.register_forward_hook(look) for layer in layers]
    modes = {module: module.training for module in network.modules()}
    image = next(network.parameters()).new_zeros(1, network.in_channels, PROBE_SIZE, PROBE_SIZE)
    with torch.no_grad():
        network.eval().encode(image)
    for module, mode in modes.items():
        module.training = mode
    for handle in handles:
        handle.remove()
    return sizes
