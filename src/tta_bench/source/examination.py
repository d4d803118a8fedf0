"""The examination of a source model on its own domain: how good it is, how sure of itself, and whether it converged.

It stands in a file beside the checkpoint, whose bytes it does not touch, so that models of any age can be examined.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.data.prepare import prepared
from tta_bench.errors import UserError
from tta_bench.metrics.dice import dice_score
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.checkpoint import Description, SourceModel, file_sha256, file_state, read_description
from tta_bench.models.normalisation import BatchStatistics, SourceStatistics
from tta_bench.models.placement import copied_to, place
from tta_bench.offline.stage import Home
from tta_bench.ops.probabilities import Activation, masks, probabilities, targets
from tta_bench.records.examination import FILE, Examination
from tta_bench.runtime.files import write_atomically
from tta_bench.runtime.numerics import numerics
from tta_bench.runtime.training_section import TrainingConfig
from tta_bench.schema import RunConfig
from tta_bench.source.held_out import THRESHOLD, in_domain_dice, split, tile_by_tile

log = logging.getLogger(__name__)

VERSION = 1
"""Of the examination; raise it whenever the same model would be found otherwise."""

BINS = 15
"""Of equal width, for the expected calibration error."""

MOST = 64
"""Images looked at where none is held out; of more, as many at equal distances."""


def side_file(checkpoint: Path) -> Path:
    """Where the examination of a source model that was trained here lies."""
    return checkpoint.with_name(FILE)


def examined(
    config: RunConfig, source: SourceModel, domains: Mapping[str, Domain], device: torch.device
) -> Examination | None:
    """What is known of the source model of a run; found out now, if that was not done before.

    Args:
        config: of the run.
        source: its source model, trained here or given.
        domains: prepared ones, by name.
        device: to compute on.

    Returns:
        None where the source domain has no images and masks, which is possible for a given checkpoint alone.
    """
    domain = domains.get(config.source) or _home(config)
    if domain is None:
        return None
    here = config.results_root / "examinations" / f"{source.sha256[:16]}_{domain.fingerprint[:16]}.json"
    file = side_file(source.path) if config.checkpoint is None else here
    return _stored(file, source.sha256, domain) or examine(source, domain, device, file)


class Known(NamedTuple):
    """What is known of a source model whose weights were not read.

    Attributes:
        description: of its file.
        sha256: of its file.
        examination: of it, as it was found before.
    """

    description: Description
    sha256: str
    examination: Examination


def known_source(path: Path, domain: Domain) -> Known | None:
    """What is known of a source model that was trained here; None where it has to be read, or examined, to know.

    Args:
        path: of its checkpoint.
        domain: that it was trained on.
    """
    try:
        description, sha256 = read_description(path), _sha256(path, file_state(path))
    except (OSError, UserError):
        return None
    examination = _stored(side_file(path), sha256, domain)
    return None if examination is None else Known(description, sha256, examination)


@lru_cache(maxsize=16)
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    """Of a file that cells of a sweep share: read once while it stays in a ``state``."""
    return file_sha256(path)


def announce(config: RunConfig, source: SourceModel | Description, examination: Examination | None) -> None:
    """Say which source model it is and how good."""
    dice = source.dice_in_domain
    held_out = "not measured" if dice is None else f"{dice:.2f} %"
    log.info("source model %s: in-domain Dice %s, %s", config.source, held_out, source.path)
    log.info("source model %s examined: %s", config.source, examination or "unknown, without images of its domain")
    if examination is not None and (weak := examination.weaknesses(config.diagnostics)):
        log.warning("SOURCE MODEL %s IS TOO WEAK TO ADAPT: it %s", config.source, ", and ".join(weak))


def _home(config: RunConfig) -> Domain | None:
    """The domain that a given checkpoint was trained on, if its images and masks are there and sound."""
    with suppress(UserError):
        return prepared(config, [config.source])[config.source]
    return None


def _stored(file: Path, sha256: str, domain: Domain) -> Examination | None:
    """An earlier examination of the same model on the same images; None if there is none that can be read."""
    with suppress(OSError, ValueError):  # ValidationError is one
        content = json.loads(file.read_bytes())
        if isinstance(content, dict) and all(content.get(key) == value for key, value in _of(sha256, domain).items()):
            return Examination.model_validate(content["examination"])
    return None


def _of(sha256: str, domain: Domain) -> dict[str, object]:
    return {"version": VERSION, "sha256": sha256, "fingerprint": domain.fingerprint}


def examine(source: SourceModel, domain: Domain, device: torch.device, file: Path) -> Examination:
    """Predict images of its own domain by the model's own statistics, and by those of each image.

    Args:
        source: the model; it stays as it is.
        domain: what it was trained on.
        device: to compute on.
        file: to be written; where that is impossible, it is left out.
    """
    images, indices = examined_images(source, domain)
    with torch.random.fork_rng(devices=[]), numerics(device), torch.no_grad():
        own, by_image = _predictors(source, domain, device)
        scores: list[Tensor] = []
        scores_by_image: list[Tensor] = []
        calibration = torch.zeros(3, BINS, dtype=torch.float64)
        for index in indices:
            image = domain.image(index, source.model.preprocessing)[None].to(device)
            label, activation = domain.truth(index), source.model.activation
            logits = domain.restored(own(image)[0].cpu(), index)
            scores.append(dice_score(masks(logits, activation, THRESHOLD), label))
            calibration += calibration_bins(logits, label, activation)
            if by_image is not None:
                logits = domain.restored(by_image(image)[0].cpu(), index)
                scores_by_image.append(dice_score(masks(logits, activation, THRESHOLD), label))
    examination = Examination(
        images=images,
        n=len(indices),
        dice=float(torch.stack(scores).mean()),
        ece=calibration_error(calibration),
        dice_image_statistics=float(torch.stack(scores_by_image).mean()) if scores_by_image else None,
    )
    content = {**_of(source.sha256, domain), "examination": examination.model_dump(mode="json")}
    with suppress(OSError, UserError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(content, indent=1) + "\n")
    return examination


def examined_images(
    source: SourceModel, domain: Domain
) -> tuple[Literal["held-out", "training", "seen or not"], list[int]]:
    """Which images of the domain a model is examined on: those held out of its training, if that is known."""
    with suppress(ValidationError):
        if source.fingerprint == domain.fingerprint and source.training is not None:
            training = TrainingConfig.model_validate(source.training)
            train, held_out = split(len(domain), training.holdout, training.seed)
            return ("held-out", held_out) if held_out else ("training", _spread(train))
    return "seen or not", _spread(range(len(domain)))


def home_of(config: RunConfig, domains: Mapping[str, Domain], source: SourceModel, device: torch.device) -> Home | None:
    """What an adapted model is measured on to know what it has retained; None without images of the source."""
    domain = domains.get(config.source)
    if domain is None:
        return None
    what, indices = examined_images(source, domain)
    unseen = indices if what == "held-out" else []
    return Home(unseen, partial(in_domain_dice, domain=domain, indices=unseen, device=device))


def training_images(source: SourceModel, domain: Domain) -> list[int] | None:
    """The images of its domain that a model was trained on; None where that is not known."""
    images, indices = examined_images(source, domain)
    if images == "seen or not":
        return None
    return sorted({*range(len(domain))} - {*indices}) if images == "held-out" else list(range(len(domain)))


def _spread(indices: Sequence[int]) -> list[int]:
    """At most :data:`MOST` of them, at equal distances."""
    places = np.linspace(0, len(indices) - 1, min(len(indices), MOST)).round().astype(int)
    return [indices[place] for place in places]


Predictor = Callable[[Tensor], Tensor]


def _predictors(source: SourceModel, domain: Domain, device: torch.device) -> tuple[Predictor, Predictor | None]:
    """Images to logits by the model's own statistics, and by those of each image if it has any of its own."""
    try:
        network = AdaptableNetwork(source.model, image_size=domain.side, tiled=domain.geometry.fit == "tile")
        network = place(network, device, domain.side)
    except UserError:  # without a normalisation layer that can be adapted
        return partial(tile_by_tile, copied_to(device, source.model)), None
    theta = network.source_theta[None]
    own, by_image = SourceStatistics(), BatchStatistics()
    measured = (lambda images: network(images, theta, by_image)) if network.batch_norm_layers else None
    return lambda images: network(images, theta, own), measured


def calibration_bins(logits: Tensor, label: Tensor, activation: Activation) -> Tensor:
    """What an image adds to the expected calibration error.

    Args:
        logits: ``[channels, H, W]``.
        label: bool ``[classes, H, W]``.
        activation: what the logits stand for.

    Returns:
        float64 ``[3, bins]``: in each bin of confidence, the number of decisions (one per pixel, and per class where
        classes are on their own), the sum of their confidences and the number of right ones.
    """
    values = probabilities(logits, activation)
    if activation == "softmax":
        confidence, decision = values.max(dim=0)
        right = decision == targets(label, activation).int().argmax(dim=0)
    else:
        confidence, right = torch.maximum(values, 1 - values), (values >= THRESHOLD) == label
    confidence = confidence.double().flatten()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    parts = torch.ones_like(confidence), confidence, right.double().flatten()
    return torch.stack([torch.bincount(bins, weights=part, minlength=BINS) for part in parts])


def calibration_error(bins: Tensor) -> float:
    """Expected calibration error in percent (Guo et al. 2017), of summed :func:`calibration_bins`."""
    number, confidence, right = bins
    return float(100 * (confidence - right).abs().sum() / number.sum())
