"""Where a network runs, and how it does so fastest."""

from __future__ import annotations

import copy

import torch

from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.graphs import Graphs
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.runtime.memory import KEPT_PIXELS
from tta_bench.runtime.numerics import activation_dtype, is_gpu, placement
from tta_bench.runtime.precision import Precision


def place(
    network: AdaptableNetwork,
    device: torch.device,
    image_size: int,
    precision: Precision = "f32",
    graphs: bool = True,
) -> AdaptableNetwork:
    """Move the network to the device, with the arithmetic, memory layout and pass size that are fastest there.

    Args:
        network: the adaptable network.
        device: where it will run.
        image_size: side of the square input in pixels.
        precision: of its arithmetic, see :func:`~tta_bench.runtime.numerics.activation_dtype`.
        graphs: whether passes are recorded as CUDA graphs where the device has these.
    """
    dtype = activation_dtype(precision, device)
    network.compute_in(precision, dtype)
    where = placement(device, dtype, precision)
    network.images_per_pass = where.images_per_pass(image_size**2)
    network.images_with_graph = KEPT_PIXELS // image_size**2
    if is_gpu(device) and where.channels_last:
        # Torch's own kernels copy maps that lie pixel by pixel.
        network.channels_last &= where.one_kernel and _kernels_work_on(device)
        if network.channels_last:
            network.model.to(memory_format=torch.channels_last)
    network.graphs = Graphs() if graphs and is_gpu(device) else None
    return network.to(device)


def _kernels_work_on(device: torch.device) -> bool:
    from tta_bench.models.kernels import work_on  # of Triton, which a GPU alone needs

    return work_on(device)


def copied_to(device: torch.device, model: SegmentationModel) -> SegmentationModel:
    """A copy of a network on a device, in eval mode; the network itself stays as and where it is."""
    return copy.deepcopy(model).to(device).eval()
