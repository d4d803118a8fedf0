"""One cell from top to bottom: a method, a source model, a seed and a protocol on all target domains.

Reading order: :func:`run` is what ``python -m tta_bench +method=grata source=D`` does, :func:`compute` is the
experiment itself.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from tta_bench import __version__
from tta_bench.adaptation.lockstep import lockstep_width
from tta_bench.adaptation.provenance import change_since, code_of, metric_codes, staleness, unscored
from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.data.domain import Domain
from tta_bench.data.prepare import prepare
from tta_bench.data.streams import Stream, lockstep_groups, passes
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS, Method, Protocol
from tta_bench.methods.options import method_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.checkpoint import SourceModel, load_checkpoint
from tta_bench.models.placement import place
from tta_bench.records.predictions import Predictions
from tta_bench.records.rescoring import with_metrics
from tta_bench.records.run_log import run_log
from tta_bench.records.scores import ImageRecord, image_row, overall_scores, target_scores
from tta_bench.records.snapshots import SnapshotFile, code_digest
from tta_bench.records.store import CellFolder, cell_hash
from tta_bench.runtime.files import translate_os_errors
from tta_bench.runtime.memory import PeakMemory, is_out_of_memory, keep_freed_memory, refuse_impossible
from tta_bench.runtime.numerics import device_name, resolve_device
from tta_bench.runtime.signals import at_stake, stop_signal
from tta_bench.schema import RunConfig
from tta_bench.sinks.cells import Followed
from tta_bench.sinks.training import followed_training, send_training
from tta_bench.source.train import source_model

log = logging.getLogger(__name__)

Result = tuple[Mapping[str, Any], Sequence[Mapping[str, str]]]
"""A cell's summary and the rows of its ``per_image.csv``."""

REFERENCE = "no_adapt"
"""The method that every cell is compared with."""

CONTROLS = (REFERENCE, "bn_only")
"""Methods without options that show what adaptation adds, if they were run."""

Follow = Callable[[Callable[[ImageRecord], Mapping[str, Any]], bool], Callable[[ImageRecord], None]]
"""See :meth:`tta_bench.sinks.cells.Followed.begin`."""


@dataclass(frozen=True)
class Cell:
    """One fully resolved run.

    Attributes:
        config: the validated configuration, with ``target`` filled in.
        seed: of the adaptation's random draws.
    """

    config: RunConfig
    seed: int

    @classmethod
    def of(cls, config: RunConfig, seed: int) -> Cell:
        """The cell of a seed; where nothing is drawn at random there is one cell, that of seed 0, for all seeds."""
        return cls(config, seed if cls(config, seed).is_stochastic else 0)

    @classmethod
    def all_of(cls, config: RunConfig) -> list[Cell]:
        """The cells of a configuration, one per seed that matters."""
        return [cls(config, seed) for seed in dict.fromkeys(cls.of(config, seed).seed for seed in config.seed)]

    @property
    def is_stochastic(self) -> bool:
        """Whether another seed gives other numbers."""
        return METHODS.get(self.config.method["name"]).is_stochastic(method_options(self.config.method))

    @property
    def targets(self) -> tuple[str, ...]:
        """The target domains, in order."""
        assert self.config.target is not None
        return self.config.target

    @property
    def method(self) -> dict[str, Any]:
        """Name, preset and options, these as typed values: 0 and 0.0 for the same option are the same cell."""
        return self.config.method | asdict(method_options(self.config.method))

    def identity(self) -> dict[str, Any]:
        """All that determines the numbers; what only changes speed, place or display is left out."""
        config = self.config
        content = config.model_dump(mode="json", include={"source", "target", "data", "model", "protocol"})
        left_out = method_options(config.method).without_identity()
        content["method"] = {key: value for key, value in self.method.items() if key not in left_out}
        if config.checkpoint is None:
            content["training"] = config.training.content(config.model.branches)
        else:
            content["checkpoint"] = str(config.checkpoint)
            content["model"].pop("preprocessing", None)  # is the checkpoint's
        if config.diagnostics.empirical_gradient:
            content["diagnostics"] = config.diagnostics.model_dump()
        return {**content, "seed": self.seed}

    def folder(self) -> CellFolder:
        """Where its results lie."""
        return CellFolder(self.config.results_root / "cells" / cell_hash(self.identity()))

    def finished(self) -> Result | None:
        """Its summary and rows; None unless it is finished and has all metrics that are asked for, by present code."""
        finished = self.folder().finished()
        return None if finished is None or staleness(finished[0], self.config) else finished

    def reference(self) -> Cell | None:
        """The same cell without adaptation; None if this is one."""
        if self.config.method["name"] == REFERENCE:
            return None
        return self._with_method(REFERENCE)

    def beside(self) -> dict[str, CellFolder]:
        """The folders of the same cell without adaptation, and with test-image statistics alone."""
        others = [name for name in CONTROLS if name != self.config.method["name"]]
        return {name: self._with_method(name).folder() for name in others}

    def _with_method(self, name: str) -> Cell:
        return Cell.of(self.config.model_copy(update={"method": {"name": name}}), self.seed)


def run(config: RunConfig) -> Iterator[tuple[Cell, Result, Result | None]]:
    """Compute, or read if already computed, a cell for every seed and its reference without adaptation.

    Args:
        config: with its targets.

    Yields:
        Each cell as soon as it is finished, its result and that of its reference; None if it is one itself.

    Raises:
        UserError: bad input; found before any work where possible.
    """
    keep_freed_memory()
    device = resolve_device(config.device)
    code_of(config)  # read now, while the files are those that run
    assert config.target is not None
    single = config.lockstep == "auto" or config.protocol.reset == "never"
    width = 1 if single else min(int(config.lockstep), len(config.target))
    gradients = METHODS.get(config.method["name"]).card.needs_gradients
    refuse_impossible(width, config.data.image_size, gradients, device, "lower data.image_size or lockstep")
    given = load_checkpoint(config.checkpoint, config) if config.checkpoint is not None else None
    names = config.target if given else (*config.target, config.source)
    domains = prepare(config.data, names, config.results_root / "data", labelled=True)
    if given is None:
        with translate_os_errors(config.results_root):
            follow = partial(followed_training, config) if config.logger else None
            source = source_model(config, domains[config.source], config.results_root, follow)
        send_training(config, source.path.parent)
    else:
        source = given
    _announce_source(source)
    for cell in Cell.all_of(config):
        reference = cell.reference()
        compared = finish(reference, domains, source, device) if reference is not None else None
        yield cell, finish(cell, domains, source, device), compared


def finish(cell: Cell, domains: Mapping[str, Domain], source: SourceModel, device: torch.device) -> Result:
    """Compute the cell unless it is finished, and read it; a failure is written down before it goes on its way."""
    folder = cell.folder()
    with folder.locked(), at_stake():
        finished = folder.finished(thoroughly=True)
        method = cell.config.method["name"]
        dashboard = Followed(cell.config, cell.seed, folder, cell.beside(), domains)
        if finished is not None and not cell.config.force:
            changed = _changed_inputs(finished[0], cell, domains, source)
            lacking = unscored(finished[0], cell.config)
            if lacking and not changed and not folder.predictions.is_file():
                changed = f"there are no predictions to take {', '.join(lacking)} from"
            if not changed:
                log.info("%s, seed %d: finished before, not computed again (force=true does that)", method, cell.seed)
                if lacking:
                    codes = {name: code for name, code in metric_codes(cell.config).items() if name in lacking}
                    rows, summary = with_metrics(*finished, folder.predictions, domains, codes)
                    folder.rewrite(rows, summary)
                    finished = folder.finished() or (summary, [])
                    log.info("%s, seed %d: scored by %s, too", method, cell.seed, " and ".join(lacking))
                folder.delete_leftovers()
                dashboard.send()
                return finished
            log.info("%s, seed %d: computed again, because %s", method, cell.seed, changed)
        if cell.config.force:
            folder.delete_snapshot()
        content = {**cell.identity(), "method": cell.method, "results_root": str(cell.config.results_root)}
        try:
            folder.start({"hash": folder.hash, **content})
            with run_log(folder.path / "run.log"):
                rows, predictions, summary = compute(cell, domains, source, device, dashboard.begin)
                folder.finish(rows, predictions, summary)
                folder.delete_leftovers()
        except BaseException as error:
            dashboard.stop()
            stopped = stop_signal(error)
            if stopped is not None:
                folder.interrupt(stopped.name)
            else:
                folder.fail(error)
            # What a signal, a lack of memory or a place that takes no results has stopped goes on; an error does not.
            if not (stopped or is_out_of_memory(error) or isinstance(error, UserError)):
                folder.delete_snapshot()
            raise
        dashboard.finish()
        return folder.finished() or (summary, [])


def compute(
    cell: Cell,
    domains: Mapping[str, Domain],
    source: SourceModel,
    device: torch.device,
    follow: Follow | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Predictions], dict[str, Any]]:
    """The experiment: a fresh state per stream, every target image adapted to, predicted, scored and told of.

    Returns:
        The rows of ``per_image.csv``, the contents of ``predictions.npz`` and of ``summary.json``.
    """
    # Lightning takes seconds to import: only where something is computed.
    from tta_bench.adaptation.empirical_gradient import EmpiricalGradient
    from tta_bench.adaptation.progress import progress_bar
    from tta_bench.adaptation.resumption import Resumption
    from tta_bench.adaptation.runner import adapt_streams
    from tta_bench.adaptation.scoring import Scoring
    from tta_bench.adaptation.telling import Telling

    config = cell.config
    memory = PeakMemory(device)
    kind, options = METHODS.get(config.method["name"]), method_options(config.method)
    size = config.data.image_size
    network = place(AdaptableNetwork(source.model, kind.branches(options), image_size=size), device, size)
    protocol, scenario = config.protocol, scenario_of(config.protocol.reset)
    method = kind(network, options, Protocol(scenario.episodic, protocol.steps, protocol.predict))
    streams = scenario.streams(passes(domains, cell.targets, protocol.order))
    groups = lockstep_groups(streams, lockstep_width(config, method, device), scenario.batch)
    log.info("%s: %s", config.method["name"], method.describe())
    snapshots = SnapshotFile(cell.folder().snapshot, snapshot_key(cell, domains, source, method, groups))
    resumed, total = snapshots.read(), sum(map(len, streams))
    scored = resumed.records if resumed is not None else ()
    scoring = Scoring(domains, protocol.threshold, config.metrics, scored, network.activation)
    if resumed is not None:
        log.info("going on after %d of %d images, where a run before was stopped", len(scoring.records), total)
    resumption = Resumption(snapshots, method, scoring, resumed)
    looking_on = [EmpiricalGradient(method, domains)] if config.diagnostics.empirical_gradient else []
    telling = [Telling(scoring, follow(partial(_row, cell, domains), resumed is not None))] if follow else []
    with progress_bar(f"{config.method['name']} {config.source} ->", total, len(scoring.records)) as progress:
        adapt_streams(
            method,
            domains,
            groups,
            seed=cell.seed,
            batch=scenario.batch,
            begin=(resumption.group, resumption.steps),
            observers=[*looking_on, scoring, *telling, resumption, progress],
        )
    if method.skipped:
        log.warning("%d updates were skipped because a loss or gradient was not finite", method.skipped)
    rows = per_image_rows(cell, domains, scoring.records)
    updates = sum(len(group[0]) for group in groups)  # an update of side-by-side streams counts once
    counted = {"forwards_per_image": network.forwards / updates, "backwards_per_image": method.backwards / updates}
    summary = summarise(cell, rows, domains, source, method) | counted
    summary["peak_memory_mb"] = round(memory.megabytes(), 1)
    return rows, predictions_by_target(cell, scoring.records), summary


def per_image_rows(cell: Cell, domains: Mapping[str, Domain], records: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    """Rows of ``per_image.csv``: targets in order, images in file order."""
    order = {name: position for position, name in enumerate(cell.targets)}
    ordered = sorted(records, key=lambda record: (order[record.place.domain], record.place.index))
    return [_row(cell, domains, record) for record in ordered]


def _row(cell: Cell, domains: Mapping[str, Domain], record: ImageRecord) -> dict[str, Any]:
    head = {"source": cell.config.source, "method": cell.config.method["name"], "seed": cell.seed}
    return image_row(record, domains[record.place.domain], **head)


def predictions_by_target(cell: Cell, records: Sequence[ImageRecord]) -> dict[str, Predictions]:
    """The binary predictions of each target, images in file order."""
    ordered = sorted(records, key=lambda record: record.place.index)
    return {
        name: Predictions.joined([record.prediction for record in ordered if record.place.domain == name])
        for name in cell.targets
    }


def summarise(
    cell: Cell,
    rows: Sequence[Mapping[str, Any]],
    domains: Mapping[str, Domain],
    source: SourceModel,
    method: Method,
) -> dict[str, Any]:
    """The content of ``summary.json``; averages as in the paper: over images, then classes, then targets."""
    targets = {}
    for name in cell.targets:
        images = [row for row in rows if row["target"] == name]
        scores = target_scores(images, cell.config.metrics, domains[name].classes)
        seconds = sum(row["seconds"] for row in images) / len(images)
        targets[name] = {"n": len(images), **scores, "seconds_per_image": round(seconds, 4)}
    return {
        "cell": cell.folder().hash,
        "method": cell.config.method["name"],
        "source": cell.config.source,
        "seed": cell.seed,
        "protocol": cell.config.protocol.model_dump(mode="json"),
        "targets": targets,
        **overall_scores(targets, cell.config.metrics),
        "skipped_updates": method.skipped,
        "seconds_per_image": round(sum(row["seconds"] for row in rows) / len(rows), 4),
        "source_checkpoint": {
            "path": str(source.path),
            "sha256": source.sha256,
            "dice_in_domain": source.dice_in_domain,
        },
        "data": {name: domains[name].fingerprint for name in cell.targets},
        "versions": versions(method),
        **code_of(cell.config),
        "metrics": metric_codes(cell.config),
    }


def versions(method: Method) -> dict[str, Any]:
    """Software and hardware, on which the last digits of a result depend."""
    return {
        "tta_bench": __version__,
        "torch": version("torch"),
        "segmentation_models_pytorch": version("segmentation-models-pytorch"),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": device_name(method.network.source_theta.device),
    }


def snapshot_key(
    cell: Cell,
    domains: Mapping[str, Domain],
    source: SourceModel,
    method: Method,
    groups: Sequence[Sequence[Stream]],
) -> dict[str, Any]:
    """All that must be as it was for a killed run to go on to the numbers of one that was not killed."""
    return {
        "the cell": cell.folder().hash,
        "the source model": source.sha256,
        "the images": {name: domains[name].fingerprint for name in cell.targets},
        "the code": code_digest(type(method)),
        "versions": versions(method),
        "the device": str(method.network.source_theta.device),
        "the metrics": list(cell.config.metrics),
        "streams side by side": [[len(stream) for stream in group] for group in groups],
    }


def _announce_source(source: SourceModel) -> None:
    dice = source.dice_in_domain
    held_out = "not measured" if dice is None else f"{dice:.2f} %"
    log.info("source model %s: in-domain Dice %s, %s", source.domain, held_out, source.path)


def _changed_inputs(
    summary: Mapping[str, Any], cell: Cell, domains: Mapping[str, Domain], source: SourceModel
) -> str | None:
    """Why a finished cell is not what would be computed now, as a clause."""
    if summary["source_checkpoint"]["sha256"] != source.sha256:
        return "the source model changed since"
    changed = [name for name in cell.targets if summary["data"].get(name) != domains[name].fingerprint]
    return f"the images of {', '.join(changed)} changed since" if changed else change_since(summary, cell.config)
