"""Where and how a network runs fastest."""

from __future__ import annotations

import torch

from tta_bench.models.adaptable import AdaptableNetwork


def place(network: AdaptableNetwork, device: torch.device, image_size: int) -> AdaptableNetwork:
    """Move the network to the device, with the pass size that is fastest there.

    Args:
        network: the adaptable network.
        device: where it will run.
        image_size: side of the square input in pixels.
    """
    if device.type == "cpu":
        network.images_per_pass = images_per_pass(device, image_size**2)
    else:
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32: results agree with the CPU's
        torch.backends.cuda.matmul.allow_tf32 = False
    return network.to(device)


def images_per_pass(device: torch.device, pixels: int) -> int | None:
    """How many images of so many pixels one pass takes at most; None for all.

    On a CPU small images share a pass, because the weights are laid out anew at each; large ones go one by one,
    because their feature maps do not fit the cache. A GPU takes all views at once.
    """
    return max(1, round(6 * 128**2 / pixels)) if device.type == "cpu" else None
