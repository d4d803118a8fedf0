"""Software and hardware, on which the last digits of a result depend."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from tta_bench import __version__
from tta_bench.runtime.numerics import device_name


def versions(device: torch.device) -> dict[str, Any]:
    """Of this process, with the device that it computes on."""
    return {
        "tta_bench": __version__,
        "torch": version("torch"),
        "segmentation_models_pytorch": version("segmentation-models-pytorch"),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": device_name(device),
    }
