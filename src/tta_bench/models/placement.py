"""Where and how a network runs fastest."""

from __future__ import annotations

import torch

from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.runtime.numerics import placement


def place(network: AdaptableNetwork, device: torch.device, image_size: int) -> AdaptableNetwork:
    """Move the network to the device, with the pass size that is fastest there.

    Args:
        network: the adaptable network.
        device: where it will run.
        image_size: side of the square input in pixels.
    """
    network.images_per_pass = placement(device).images_per_pass(image_size**2)
    return network.to(device)
