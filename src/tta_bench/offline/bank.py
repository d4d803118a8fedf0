"""The bank of a source model: made of its training images once, and kept beside the checkpoint for predictions, too.

A method whose card says ``tta+bank`` is handed it, and no other: it cannot reach the images that it was made of.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tta_bench.data.domain import Domain
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import method_options
from tta_bench.models.bank import Bank, BankKind, make_bank
from tta_bench.models.checkpoint import SourceModel
from tta_bench.offline.access import Images
from tta_bench.ops.geometry import unstacked
from tta_bench.ops.preprocessing import Preprocessing
from tta_bench.runtime.files import write_atomically
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file
from tta_bench.schema import RunConfig

log = logging.getLogger(__name__)

FORMAT = "tta_bench bank"


def needs_bank(config: RunConfig) -> bool:
    """Whether the method of a run may see a bank."""
    return METHODS.get(config.method["name"]).card.setting == "tta+bank"


def has_bank(config: RunConfig, source: SourceModel, code: str) -> bool:
    """Whether the bank that the method of a run needs lies beside the checkpoint."""
    return _read(config, source, code) is not None


def banked(
    config: RunConfig, source: SourceModel, domain: Domain | None, indices: Sequence[int] | None, code: str
) -> SourceModel:
    """The source model with the bank that the method of a run needs: read where it was made before, else made now.

    Args:
        config: of the run.
        source: the source model; stays as it is.
        domain: its images; None where they are not at hand, and the bank must be there.
        indices: of the images that it was trained on; None: all.
        code: digest of the code that makes a bank.

    Raises:
        UserError: there is no bank of these options, and there are no images to make it of.
    """
    if not needs_bank(config):
        return source
    found = _read(config, source, code)
    if found is None or (domain is not None and found[1] != _made_of(config, source, domain, indices, code)):
        if domain is None:
            raise UserError(
                f"method={config.method['name']} with these options needs a bank of source images, and there is none "
                f"at {bank_file(config, source.path)}: a run of it where the source images are makes it"
            )
        found = _made(config, source, domain, indices, code)
    bank, origin = found
    return with_bank(source, replace(bank, origin=_digest(origin)))


def bank_of(
    domain: Domain, indices: Sequence[int], preprocessing: Preprocessing, radius: float, kind: BankKind
) -> Bank:
    """The bank of some images of a domain, tile by tile, as the network of the source model sees them."""
    images = Images(domain, indices, preprocessing)
    tiles = (
        tile for k, index in enumerate(indices) for tile in unstacked(images[k][None], domain.tiles(index)).unbind()
    )
    return make_bank(tiles, radius, kind)


def with_bank(source: SourceModel, bank: Bank | None) -> SourceModel:
    """The same source model with a bank beside it; the weights are shared."""
    model = copy.copy(source.model)
    model.bank = bank
    return replace(source, model=model)


def bank_file(config: RunConfig, checkpoint: Path) -> Path:
    """Where the bank of the options of a run lies."""
    options: Any = method_options(config.method)
    return checkpoint.with_name(f"{checkpoint.stem}.bank_{options.bank}_{options.radius:g}.pt")


def _made_of(
    config: RunConfig, source: SourceModel, domain: Domain, indices: Sequence[int] | None, code: str
) -> dict[str, Any]:
    """All that determines a bank, as plain values."""
    options: Any = method_options(config.method)
    return {
        "source_model": source.sha256,
        "radius": float(options.radius),
        "bank": options.bank,
        "code": code,
        "images": domain.fingerprint,
        "indices": None if indices is None else list(indices),
    }


def _digest(origin: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def _read(config: RunConfig, source: SourceModel, code: str) -> tuple[Bank, dict[str, Any]] | None:
    """The bank of these options and this model, and what it was made of; None if there is none that can be used."""
    path = bank_file(config, source.path)
    try:
        content = read_torch_file(path) if path.exists() else None
    except TorchFileError as error:
        log.warning("making the bank %s again: it %s", path, error.reason)
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    origin, options = content["made_of"], method_options(config.method)
    asked = {"source_model": source.sha256, "radius": float(options.radius), "bank": options.bank, "code": code}  # type: ignore[attr-defined]
    if any(origin.get(key) != value for key, value in asked.items()):
        return None
    return Bank(origin["radius"], content["amplitudes"], content["thumbnails"]), origin


def _made(
    config: RunConfig, source: SourceModel, domain: Domain, indices: Sequence[int] | None, code: str
) -> tuple[Bank, dict[str, Any]]:
    """Make a bank, and leave it beside the checkpoint where that can be written to."""
    options: Any = method_options(config.method)
    chosen = range(len(domain)) if indices is None else indices
    bank = bank_of(domain, chosen, source.model.preprocessing, options.radius, options.bank)
    path = bank_file(config, source.path)
    origin = _made_of(config, source, domain, indices, code)
    file = io.BytesIO()
    content = {"format": FORMAT, "made_of": origin, "amplitudes": bank.amplitudes, "thumbnails": bank.thumbnails}
    torch.save(content, file)
    try:
        write_atomically(path, file.getvalue())
        log.info("made a bank of %d source images: %s", len(chosen), path)
    except (OSError, UserError) as error:
        log.warning("the bank could not be kept for predictions (%s)", error)
    return bank, origin
