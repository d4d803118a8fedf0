"""What a run cannot do with its images, told before any work."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tta_bench.data.domain import Domain
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.runtime.memory import refuse_impossible
from tta_bench.schema import RunConfig


def refuse_impossible_size(config: RunConfig, device: torch.device, tiles: int = 1) -> None:
    """Refuse a run whose images, cut into so many tiles, cannot fit into the memory.

    Raises:
        UserError: they cannot.
    """
    assert config.target is not None
    single = config.lockstep == "auto" or config.protocol.reset == "never" or config.data.fit == "tile"
    width = 1 if single else min(int(config.lockstep), len(config.target))
    gradients = METHODS.get(config.method["name"]).card.needs_gradients
    remedy = "scale the images down, or use data.fit=pad" if tiles > 1 else "lower data.image_size or lockstep"
    refuse_impossible(tiles * width, config.data.image_size, gradients, device, remedy)


def refuse_images(config: RunConfig, domains: Mapping[str, Domain], device: torch.device) -> None:
    """Refuse targets with an image of too many tiles, or of another size where the method compares their pixels.

    Args:
        config: with its targets.
        domains: the prepared targets.
        device: to run on.

    Raises:
        UserError: there is such an image.
    """
    compares = METHODS.get(config.method["name"]).card.compares_pixels
    for name in config.target or ():
        domain = domains[name]
        refuse_impossible_size(config, device, max(map(domain.tiles, range(len(domain)))))
        sizes = dict(zip(domain.sizes, domain.image_names, strict=True))
        if config.data.fit == "tile" and compares and len(sizes) > 1:
            (one, other), image = list(sizes)[:2], list(sizes.values())[1]
            raise UserError(
                f"method={config.method['name']} compares images pixel by pixel, and in target {name} they have "
                f"several sizes ({one[1]}x{one[0]}, but {other[1]}x{other[0]} of '{image}'): use data.fit=pad, or "
                "another method"
            )
