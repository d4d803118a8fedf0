"""Turn the authors' last-Res_Unet.pth into a checkpoint of tta_bench."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.errors import UserError

if TYPE_CHECKING:
    from tta_bench.models.checkpoint import Checkpoint

OFFICIAL_MASK_VALUES = {"disc": (1, 2), "cup": (2,)}
"""Values of the authors' masks after decoding, as in ``conf/data/fundus.yaml``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to import, as what, and where to."""
    parser.add_argument("official", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--domain", required=True, help="the source domain it was trained on, for instance A")


def run(parsed: argparse.Namespace) -> None:
    """Write the checkpoint."""
    import_official(parsed.official, parsed.out, parsed.domain)
    print(f"wrote {parsed.out}")


def import_official(official: Path, out: Path, domain: str) -> Checkpoint:
    """Write the authors' state dict as a checkpoint of this project; returns what was written.

    Args:
        official: the authors' ``last-Res_Unet.pth``.
        out: the file to write; an existing one is never overwritten.
        domain: name of the domain it was trained on, for instance ``A``; the file does not say.

    Raises:
        UserError: ``out`` exists, or ``official`` is not the authors' network.
    """
    from tta_bench.models.checkpoint import OFFICIAL, OFFICIAL_IMAGE_SIZE, read_checkpoint, save_checkpoint

    if out.exists():
        raise UserError(f"{out} exists: give another name, or remove it")
    checkpoint = read_checkpoint(official)
    if checkpoint.format != OFFICIAL:
        raise UserError(f"{official} is a checkpoint of tta_bench already: use checkpoint={official}")
    save_checkpoint(
        out,
        checkpoint.state,
        architecture=checkpoint.architecture,
        preprocessing=checkpoint.preprocessing,
        classes=OFFICIAL_MASK_VALUES,
        image_size=OFFICIAL_IMAGE_SIZE,
        domain=domain,
        fingerprint=None,
        training=None,
        dice_in_domain_per_class=None,
    )
    return read_checkpoint(out)
