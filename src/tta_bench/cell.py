"""One cell from top to bottom: a method, a source model, a seed and a protocol on all target domains.

Reading order: :func:`run` is what ``python -m tta_bench +method=grata source=D`` does,
:func:`~tta_bench.adaptation.compute.compute` is the experiment itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch

from tta_bench.adaptation.compute import compute
from tta_bench.adaptation.feasible import refuse_images, refuse_impossible_size
from tta_bench.adaptation.later_metrics import add_metrics, obstacle
from tta_bench.adaptation.outcome import Inputs, changed_since
from tta_bench.adaptation.provenance import bank_code, code_of, staleness, system_code, unscored
from tta_bench.adaptation.sharing import MOST_CELLS, Member, shares
from tta_bench.data.domain import Domain
from tta_bench.data.held_out import trained_on
from tta_bench.data.prepare import prepared
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import identified_method, method_options
from tta_bench.models.checkpoint import SourceModel, load_checkpoint
from tta_bench.offline.bank import banked, has_bank, needs_bank, with_bank
from tta_bench.offline.continual import after_stages
from tta_bench.offline.options import card_of, identified_system
from tta_bench.offline.routing import Routes, routes_of
from tta_bench.offline.stage import adapted_model, refuse_small
from tta_bench.records.examination import Examination, with_examination
from tta_bench.records.run_log import run_log
from tta_bench.records.store import CellFolder, cell_hash
from tta_bench.runtime.files import translate_os_errors
from tta_bench.runtime.memory import is_out_of_memory, keep_freed_memory
from tta_bench.runtime.numerics import resolve_device
from tta_bench.runtime.signals import at_stake, stop_signal
from tta_bench.schema import UNADAPTED, RunConfig
from tta_bench.sinks.cells import Followed
from tta_bench.sinks.training import followed_stage, followed_training, send_training
from tta_bench.source.examination import announce, examined, home_of, known_source, training_images
from tta_bench.source.train import model_path, source_model

log = logging.getLogger(__name__)

Result = tuple[Mapping[str, Any], Sequence[Mapping[str, str]]]
"""A cell's summary and the rows of its ``per_image.csv``."""

REFERENCE = UNADAPTED
"""The method that every cell is compared with."""

CONTROLS = (REFERENCE, "bn_only")
"""Methods without options that show what adaptation adds, if they were run."""


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
        system = card_of(self.config.adapt)
        by_method = METHODS.get(self.config.method["name"]).is_stochastic(method_options(self.config.method))
        return by_method or (system is not None and system.stochastic)

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
        content |= {key: list(names) for key in ("route", "stages") if (names := getattr(config, key)) is not None}
        content["method"] = identified_method(config.method)
        if config.adapt is not None:
            content["adapt"] = identified_system(config.adapt)
        if config.checkpoint is None:
            content["training"] = config.training.content(config.model.branches)
        else:
            content["checkpoint"] = str(config.checkpoint)
            content["model"].pop("preprocessing", None)  # is the checkpoint's
        if config.predict.nest:
            content["predict"] = config.predict.model_dump()
        if config.precision != "f32":
            content["precision"] = config.precision
        if config.diagnostics.empirical_gradient:
            content["diagnostics"] = config.diagnostics.model_dump()
        return {**content, "seed": self.seed}

    def folder(self) -> CellFolder:
        """Where its results lie."""
        return CellFolder(self.config.results_root / "cells" / self._hash)

    @cached_property
    def _hash(self) -> str:
        return cell_hash(self.identity())

    def finished(self) -> Result | None:
        """Its summary and rows; None unless it is finished and has all metrics that are asked for, by present code."""
        finished = self.folder().finished()
        return None if finished is None or staleness(finished[0], self.config) else finished

    def reference(self) -> Cell | None:
        """The same cell without adaptation, whether before the test or in it; None if this is one."""
        if self.config.method["name"] == REFERENCE and self.config.adapt is None:
            return None
        return self._with_method(REFERENCE)

    def beside(self) -> dict[str, CellFolder]:
        """The folders of the same cell without adaptation, and with test-image statistics alone."""
        others = [name for name in CONTROLS if name != self.config.method["name"] or self.config.adapt is not None]
        return {name: self._with_method(name).folder() for name in others}

    def _with_method(self, name: str) -> Cell:
        return Cell.of(self.config.model_copy(update={"method": {"name": name}, "adapt": None}), self.seed)


def run(config: RunConfig, beside: Sequence[RunConfig] = ()) -> Iterator[tuple[Cell, Result, Result | None]]:
    """Compute, or read if already computed, a cell for every seed and its reference without adaptation.

    Args:
        config: with its targets.
        beside: runs to come that have in common with this one what :func:`~tta_bench.adaptation.sharing.shared_by`
            says: where the device gains by it, their cells are computed in shared batches now, and found finished then.

    Yields:
        Each cell as soon as it is finished, its result and that of its reference; None if it is one itself.

    Raises:
        UserError: bad input; found before any work where possible.
    """
    keep_freed_memory()
    device = resolve_device(config.device)
    code_of(config)  # read now, while the files are those that run
    assert config.target is not None
    refuse_impossible_size(config, device)
    given = load_checkpoint(config.checkpoint, config) if config.checkpoint is not None else None
    system = card_of(config.adapt)
    has_source = given is None or (system is not None and system.needs_source)
    if given is not None and needs_bank(config):
        has_source = has_source or not has_bank(config, given, bank_code())
    own = config.stages or config.sources if has_source else ()
    domains = prepared(config, tuple(dict.fromkeys((*config.target, *own))))
    refuse_images(config, domains, device)
    refuse_small(config, [domains[name] for name in dict.fromkeys((*config.target, *(config.stages or ())))])
    if (kept := _kept(config, domains)) is not None:
        yield from kept
        return
    known = {each.source: _known(each, given, domains, device) for each in config.of_each_source()}
    source, examination = next(iter(known.values()))
    models = {name: model for name, (model, _) in known.items()}
    routes = routes_of(config, models, domains, device) if config.route is not None else None
    with_its_bank, with_their_banks = source, routes
    if needs_bank(config):
        own_bank = partial(_with_own_bank, config, domains, has_source)
        with_its_bank, with_their_banks = own_bank(source), routes.to(own_bank) if routes is not None else None
    of_source = partial(finish, domains=domains, source=source, device=device, examination=examination)
    shared: dict[str, Result] = {}
    if shares(config, device):
        shared = _shared(list(chain.from_iterable(map(Cell.all_of, (config, *beside)))), of_source)
    for cell in Cell.all_of(config):
        reference, compared = cell.reference(), None
        if reference is not None:
            compared = shared.get(reference.folder().hash) or of_source([reference], routes=routes)[0]
        adapted, after = adapted_models(cell, domains, source, device)
        adapted = {name: with_bank(model, with_its_bank.model.bank) for name, model in adapted.items()}
        args = domains, with_its_bank, device, examination, adapted, after or with_their_banks
        yield cell, shared.get(cell.folder().hash) or finish([cell], *args)[0], compared


def _shared(cells: Sequence[Cell], finish_these: Callable[[Sequence[Cell]], list[Result]]) -> dict[str, Result]:
    """Hash -> result of cells that share batches and of their references; those that fail are left to go one by one."""
    # In the same order in every process, so that none waits for a cell while another waits for one of its own.
    ordered = [each for _, each in sorted({cell.folder().hash: cell for cell in cells}.items())]
    if len(ordered) == 1:
        return {}
    references = {each.folder().hash: each for cell in ordered if (each := cell.reference()) is not None}
    results = {name: finish_these([each])[0] for name, each in references.items()}
    for first in range(0, len(ordered), MOST_CELLS):
        together = ordered[first : first + MOST_CELLS]
        try:
            results |= zip((cell.folder().hash for cell in together), finish_these(together), strict=True)
        except Exception as error:
            if stop_signal(error) is not None:
                raise
            log.warning("%d cells could not share batches, and go one by one (%s)", len(together), error)
    return results


def _known(
    config: RunConfig, given: SourceModel | None, domains: Mapping[str, Domain], device: torch.device
) -> tuple[SourceModel, Examination | None]:
    """The source model of a run, given or trained now or before, and what is known of it."""
    source = given
    if source is None:
        domains = {**domains, config.source: trained_on(config, domains[config.source])}
        with translate_os_errors(config.results_root):
            follow = partial(followed_training, config) if config.logger else None
            source = source_model(config, domains[config.source], config.results_root, follow)
        send_training(config, source.path.parent)
    examination = examined(config, source, domains, device)
    announce(config, source, examination)
    return source, examination


def _with_own_bank(
    config: RunConfig, domains: Mapping[str, Domain], has_source: bool, source: SourceModel
) -> SourceModel:
    indices = training_images(source, domains[source.domain]) if has_source else None
    return banked(config, source, domains.get(source.domain), indices, bank_code())


def _kept(config: RunConfig, domains: Mapping[str, Domain]) -> list[tuple[Cell, Result, Result | None]] | None:
    """What a run yields where all of it was finished before; None where a network has to be read to go on."""
    pairs = [(cell, cell.reference()) for cell in Cell.all_of(config)]
    has_more = config.force or config.logger or config.checkpoint or config.adapt or config.route or config.stages
    folders = [each.folder() for pair in pairs for each in pair if each is not None]
    if has_more or needs_bank(config) or any(folder.status() != "done" for folder in folders):
        return None
    domain = domains[config.source]
    if (source := known_source(model_path(config, domain, config.results_root), domain)) is None:
        return None
    announce(config, source.description, source.examination)
    kept: list[tuple[Cell, Result, Result | None]] = []
    for cell, reference in pairs:
        results = []
        for each in filter(None, (reference, cell)):
            with each.folder().locked():
                result = _as_before(each, domains, Inputs(source.sha256), source.examination)
            if not isinstance(result, tuple):
                return None
            results.append(result)
        kept.append((cell, results[-1], None if reference is None else results[0]))
    for each in filter(None, chain.from_iterable(pairs)):
        _tell_kept(each)
    return kept


def _tell_kept(cell: Cell) -> None:
    log.info("%s, seed %d: finished before, not computed again (force=true does that)", cell.config.called, cell.seed)


def _as_before(
    cell: Cell, domains: Mapping[str, Domain], inputs: Inputs, examination: Examination | None
) -> Result | str | None:
    """A finished cell, with all metrics that are asked for; the caller holds its lock.

    Returns:
        A clause where it has to be computed again, None where it is not finished.
    """
    folder = cell.folder()
    if (finished := folder.finished(thoroughly=True)) is None:
        return None
    lacking = unscored(finished[0], cell.config)
    if changed := changed_since(finished[0], cell.config, domains, inputs) or obstacle(lacking, folder):
        return changed
    if lacking:
        finished = add_metrics(lacking, folder, finished, domains)
        log.info("%s, seed %d: now scored by %s, too", cell.config.called, cell.seed, " and ".join(lacking))
    finished = folder.annotate(finished, examination)
    folder.delete_leftovers()
    return finished


def adapted_models(
    cell: Cell, domains: Mapping[str, Domain], source: SourceModel, device: torch.device
) -> tuple[dict[str, SourceModel], Routes | None]:
    """Target -> what ``adapt`` makes of the source model for it, or has made before; empty without ``adapt``.

    Of stages that leave several models, the routes to these instead.
    """
    config, card = cell.config, card_of(cell.config.adapt)
    if card is None:
        return {}, None
    if config.stages is not None:
        followed = partial(partial, followed_stage, config.of_each_source()[0]) if config.logger else None
        with translate_os_errors(config.results_root):
            return after_stages(config, source, domains, cell.seed, system_code(config), device, followed)
    of_source = domains[config.source] if card.needs_source else None
    made, code, home = {}, system_code(config), home_of(config, domains, source, device)
    with translate_os_errors(config.results_root):
        for target in cell.targets:
            follow = partial(followed_stage, config, target) if config.logger else None
            args = config, source, domains[target], of_source, cell.seed, code, device
            made[target] = adapted_model(*args, follow, home)
    return made, None


def finish(
    cells: Sequence[Cell],
    domains: Mapping[str, Domain],
    source: SourceModel,
    device: torch.device,
    examination: Examination | None = None,
    adapted: Mapping[str, SourceModel] = MappingProxyType({}),
    routes: Routes | None = None,
) -> list[Result]:
    """Compute those of the cells that are not finished in shared batches, and read all of them.

    A failure is written down in each cell that it has kept from its results, before it goes on its way.

    Args:
        cells: in the order in which every process takes them; several share what :func:`shared_by` says.
        domains: the prepared targets.
        source: the source model.
        device: to run on.
        examination: of the source model.
        adapted: as for :func:`~tta_bench.adaptation.compute.compute`.
        routes: likewise.
    """
    results: dict[str, Result] = {}
    open_ones: list[tuple[Cell, CellFolder, Followed]] = []
    inputs = Inputs.of(source, adapted, routes)
    with ExitStack() as held:
        for folder in (cell.folder() for cell in cells):
            held.enter_context(folder.locked())
        held.enter_context(at_stake())
        for cell in cells:
            folder = cell.folder()
            dashboard = Followed(cell.config, cell.seed, folder, cell.beside(), domains, examination)
            before = None if cell.config.force else _as_before(cell, domains, inputs, examination)
            if isinstance(before, tuple):
                _tell_kept(cell)
                dashboard.send()
                results[folder.hash] = before
                continue
            if before is not None:
                log.info("%s, seed %d: computed again, because %s", cell.config.called, cell.seed, before)
            if cell.config.force:
                folder.delete_snapshot()
            open_ones.append((cell, folder, dashboard))
        try:
            with ExitStack() as logs:
                for cell, folder, _ in open_ones:
                    content = {**cell.identity(), "method": cell.method, "results_root": str(cell.config.results_root)}
                    folder.start({"hash": folder.hash, **content})
                    logs.enter_context(run_log(folder.path / "run.log"))
                members = [Member(cell.config, cell.seed, folder) for cell, folder, _ in open_ones]
                follow = [dashboard.begin for *_, dashboard in open_ones]
                computed = compute(members, domains, source, device, follow, adapted, routes) if members else []
                for (_, folder, _), (rows, predictions, summary) in zip(open_ones, computed, strict=True):
                    folder.finish(rows, predictions, with_examination(summary, examination))
                    results[folder.hash] = summary, []
                for _, folder, _ in open_ones:
                    folder.delete_leftovers()
        except BaseException as error:
            stopped = stop_signal(error)
            # What a signal, a lack of memory or a place that takes no results has stopped goes on; an error does not,
            # nor do cells that could not share batches.
            goes_on = stopped or (len(cells) == 1 and (is_out_of_memory(error) or isinstance(error, UserError)))
            for _, folder, _ in open_ones:
                if stopped is not None:
                    folder.interrupt(stopped.name)
                elif folder.hash not in results:
                    folder.fail(error)
                if not goes_on:
                    folder.delete_snapshot()
            for *_, dashboard in open_ones:
                dashboard.stop()
            raise
        for _, folder, dashboard in open_ones:
            dashboard.finish()
            results[folder.hash] = folder.finished() or results[folder.hash]
    return [results[cell.folder().hash] for cell in cells]
