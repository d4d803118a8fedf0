"""What a computed cell leaves behind: rows of ``per_image.csv``, predictions, and the content of ``summary.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from tta_bench.adaptation.provenance import change_since, code_of, metric_codes
from tta_bench.data.domain import Domain
from tta_bench.data.held_out import tested
from tta_bench.methods.base import Method
from tta_bench.models.checkpoint import SourceModel
from tta_bench.offline.routing import COLUMN, Routes
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import (
    ImageRecord,
    case_scores,
    empty_masks,
    image_row,
    outside_classes,
    overall_scores,
    target_scores,
    units,
)
from tta_bench.records.versions import versions
from tta_bench.schema import RunConfig


def per_image_row(
    config: RunConfig, seed: int, domains: Mapping[str, Domain], routes: Routes | None, record: ImageRecord
) -> dict[str, Any]:
    """The row of an image; its source is the one whose model it was adapted from."""
    head = {"source": config.source, "method": config.called, "seed": seed}
    if routes is not None:
        head["source"], distance = routes.of(record.place)
        record = replace(record, diagnostics={COLUMN: distance, **record.diagnostics})
    return image_row(record, domains[record.place.domain], **head)


def per_image_rows(
    config: RunConfig,
    seed: int,
    domains: Mapping[str, Domain],
    routes: Routes | None,
    records: Sequence[ImageRecord],
) -> list[dict[str, Any]]:
    """Rows of ``per_image.csv``: targets in order, images in file order."""
    assert config.target is not None
    order = {name: position for position, name in enumerate(config.target)}
    ordered = sorted(records, key=lambda record: (order[record.place.domain], record.place.index))
    return [per_image_row(config, seed, domains, routes, record) for record in ordered]


def predictions_by_target(targets: Sequence[str], records: Sequence[ImageRecord]) -> dict[str, Predictions]:
    """The binary predictions of each target, images in file order."""
    ordered = sorted(records, key=lambda record: record.place.index)
    return {
        name: Predictions.joined([record.prediction for record in ordered if record.place.domain == name])
        for name in targets
    }


def summarise(
    config: RunConfig,
    seed: int,
    domains: Mapping[str, Domain],
    records: Sequence[ImageRecord],
    rows: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, Predictions],
) -> dict[str, Any]:
    """What was measured; averages as in the paper: over images, then classes, then targets.

    Args:
        config: of the run, with its targets.
        seed: of the cell.
        domains: the prepared targets.
        records: of all images.
        rows: of ``per_image.csv``.
        predictions: of each target.
    """
    assert config.target is not None
    spaced = all(domains[name].spaced for name in config.target)
    targets, empty = {}, {}
    for name in config.target:
        domain, images = domains[name], [row for row in rows if row["target"] == name]
        scores = target_scores(images, config.metrics, domain.classes)
        tested_on = tested(name, len(domain), config.protocol.evaluation)
        of_cases = case_scores(
            domain, predictions[name], tested_on, config.metrics, config.protocol.empty, spaced=spaced
        )
        seconds = round(sum(row["seconds"] for row in images) / len(images), 4)
        targets[name] = {"n": len(images), **scores, "seconds_per_image": seconds, **of_cases}
        empty[name] = empty_masks([each.empty for each in records if each.place.domain == name], domain.classes)
    return {
        "method": config.called,
        "source": config.source,
        "seed": seed,
        "protocol": config.protocol.model_dump(mode="json"),
        "targets": targets,
        **overall_scores(targets, config.metrics),
        **({"units": in_millimetres} if (in_millimetres := units(config.metrics, spaced)) else {}),
        "seconds_per_image": round(sum(row["seconds"] for row in rows) / len(rows), 4),
        "empty_masks": empty,
        "outside": outside_classes(predictions, config.data.classes),
    }


def origins(
    config: RunConfig,
    domains: Mapping[str, Domain],
    source: SourceModel,
    adapted: Mapping[str, SourceModel],
    routes: Routes | None,
    method: Method,
) -> dict[str, Any]:
    """What the numbers were made of: models, images, software and code."""
    assert config.target is not None
    return {
        "source_checkpoint": _model(source),
        **({"bank": source.model.bank.origin} if source.model.bank is not None else {}),
        **({"adapted": {name: _model(each) for name, each in adapted.items()}} if adapted else {}),
        **({"routes": _routes(routes)} if routes is not None else {}),
        "data": {name: domains[name].fingerprint for name in config.target},
        "versions": versions(method.network.source_theta.device),
        **({"activations": str(method.network.dtype)} if config.precision != "f32" else {}),
        **code_of(config),
        "metrics": metric_codes(config),
    }


def _routes(routes: Routes) -> dict[str, Any]:
    """Centre -> its model, and how many images of each target have gone to it."""
    return {name: {**_model(model), "images": routes.counts(name)} for name, model in routes.models.items()}


def _model(model: SourceModel) -> dict[str, Any]:
    """Which model, and how good on held-out images of the source domain: for an adapted one, what it has retained."""
    return {"path": str(model.path), "sha256": model.sha256, "dice_in_domain": model.dice_in_domain}


class Inputs(NamedTuple):
    """What a cell is computed from beside its images, by digests.

    Attributes:
        source: SHA-256 of the source model's file.
        bank: digest of the bank of source images; None without one.
        adapted: target -> SHA-256 of the file of the model that stands in for the source model there.
        routes: centre -> SHA-256 of the file of its source model, where images are routed.
    """

    source: str
    bank: str | None = None
    adapted: Mapping[str, str] = MappingProxyType({})
    routes: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def of(cls, source: SourceModel, adapted: Mapping[str, SourceModel], routes: Routes | None) -> Inputs:
        """Those of models that were read."""
        bank = source.model.bank
        centres = {} if routes is None else hashes(routes.models)
        return cls(source.sha256, None if bank is None else bank.origin, hashes(adapted), centres)


def changed_since(
    summary: Mapping[str, Any], config: RunConfig, domains: Mapping[str, Domain], inputs: Inputs
) -> str | None:
    """Why a finished cell is not what would be computed now, as a clause; None if it is."""
    assert config.target is not None
    if summary["source_checkpoint"]["sha256"] != inputs.source:
        return "the source model changed since"
    if inputs.bank is not None and summary.get("bank") != inputs.bank:
        return "the bank of source images changed since"
    for key, called, models in ("adapted", "adapted", inputs.adapted), ("routes", "further source", inputs.routes):
        if {name: model["sha256"] for name, model in summary.get(key, {}).items()} != models:
            return f"the {called} models changed since"
    changed = [name for name in config.target if summary["data"].get(name) != domains[name].fingerprint]
    return f"the images of {', '.join(changed)} changed since" if changed else change_since(summary, config)


def hashes(models: Mapping[str, SourceModel]) -> dict[str, str]:
    """Name -> SHA-256 of the model's file."""
    return {name: model.sha256 for name, model in models.items()}
