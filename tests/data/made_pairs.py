"""Pairs of images and masks to prepare."""

import numpy as np
import pytest
from PIL import Image

from sections import data_config
from tta_bench.data.prepare import prepare
from tta_bench.errors import UserError


def pair(root, domain, name, *, seed=0, size=(96, 80), values=(0, 1), mask_name=None):
    rng = np.random.default_rng(seed)
    for kind, pixels, file in (
        ("image", rng.integers(0, 256, (*size, 3), dtype=np.uint8), name),
        ("mask", rng.choice(np.array(values, np.uint8), size), mask_name or name),
    ):
        path = root / domain / kind / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def configure(root, **changes):
    return data_config(root=root, max_pixels=10**6, **changes)


def entries(cache):
    """What lies in the cache beside the locks, which stay."""
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def faults(config, names, cache):
    with pytest.raises(UserError) as caught:
        prepare(config, names, cache)
    return caught.value.faults
