"""A search from top to bottom: :func:`tune` is what ``python -m tta_bench +method=tent source=D tune=true`` does."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from tta_bench import __version__
from tta_bench.adaptation.provenance import bank_code
from tta_bench.adaptation.setup import network_on
from tta_bench.data.prepare import prepared
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import method_options
from tta_bench.models.checkpoint import SourceModel, load_checkpoint
from tta_bench.offline.bank import banked
from tta_bench.runtime.files import translate_os_errors
from tta_bench.runtime.memory import keep_freed_memory, refuse_impossible
from tta_bench.runtime.numerics import device_name, resolve_device
from tta_bench.runtime.signals import at_stake
from tta_bench.schema import RunConfig
from tta_bench.search.objective import dice_on, mean_of
from tta_bench.search.passes import longer_targets
from tta_bench.search.pseudo_targets import held_out, pseudo_targets
from tta_bench.search.study import Study
from tta_bench.search.trials import Ended, Trials, is_used, require_optuna
from tta_bench.source.examination import training_images
from tta_bench.source.train import source_model

log = logging.getLogger(__name__)


def tune(config: RunConfig) -> Mapping[str, Any] | None:
    """Take trials until the budget is spent, here or in other processes, and write the outcome down.

    Of the data set nothing but the source domain is read.

    Args:
        config: of a run with ``tune=true``; it has no targets.

    Returns:
        The outcome, that of a search before if nothing has changed since; None while other processes are at the last
        trials.

    Raises:
        UserError: bad input; found before any work where possible.
    """
    require_optuna()
    assert config.search is not None
    keep_freed_memory()
    study, device = Study(config), resolve_device(config.device)
    gradients = METHODS.get(config.method["name"]).card.needs_gradients
    refuse_impossible(1, config.data.image_size, gradients, device, "lower data.image_size")
    domain = prepared(config, (config.source,))[config.source]
    if config.checkpoint is not None:
        source = load_checkpoint(config.checkpoint, config)
    else:
        with translate_os_errors(config.results_root):
            source = source_model(config, domain, config.results_root)
    source = banked(config, source, domain, training_images(source, domain), bank_code())
    inputs = {"source_model": source.sha256, "images": domain.fingerprint, "code": study.code}
    title = f"{config.method['name']}, source {config.source}"
    before = study.outcome()
    if before is not None and before["inputs"] == inputs and not config.force:
        log.info("%s: searched before, %s", title, study.path)
        return before
    indices, unseen = held_out(source, domain)
    if not unseen:
        log.info("%s: which images the source model has not seen is not known: the search takes all of them", title)
    shown, passes = (domain, indices, config.search.shifts, config.search.seed), config.search.passes
    targets = pseudo_targets(*shown) if passes == 1 else longer_targets(*shown, passes)
    network = network_on(config, source, _options(study), device)
    with translate_os_errors(config.results_root), at_stake():
        trials = _trials(study, inputs)
        _take(trials, study, lambda options, text: dice_on(targets, config, options, network, text), title)
        ended = trials.ended()
    if len(ended) < study.trials:
        log.info("%s: other processes are at the last trials, and will write the outcome", title)
        return None
    used = {"count": len(indices), "unseen_by_the_source_model": unseen}
    study.write(outcome := {**_outcome(study, ended), "images": used, **_origin(source, device), "inputs": inputs})
    log.info("%s: %s", title, study.path)
    return outcome


def _options(study: Study, **changes: Any) -> Any:
    """Options of the method, typed and checked.

    Raises:
        UserError: changes that do not belong together.
    """
    return method_options({"name": study.config.method["name"], **study.defaults, **changes})


def _trials(study: Study, inputs: Mapping[str, Any]) -> Trials:
    """The journal of trials with these inputs; ``force`` begins with an empty one, unless a process is at it."""
    assert study.config.search is not None
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
    journal = study.folder / f"trials-{digest}.journal"
    if study.config.force and not is_used(journal):
        journal.unlink(missing_ok=True)
        study.path.unlink(missing_ok=True)
    defaults = {name: study.defaults[name] for name in study.space}
    return Trials(journal, study.space, defaults, study.trials, study.config.search.seed)


def _take(trials: Trials, study: Study, dice_of: Any, title: str) -> None:
    """Take trial after trial, and tell of each."""
    while (running := trials.ask()) is not None:
        text = f"{title}: trial {running.number + 1} of {study.trials}"
        try:
            dice, failure = dice_of(_options(study, **running.options), text)
        except UserError as error:  # options that do not belong together
            dice, failure = {}, str(error)
        shown = ", ".join(f"{key}={_short(value)}" for key, value in running.options.items()) or "nothing to search"
        if failure:
            trials.tell(running, None, failure)
            log.info("%s failed, %s (%s)", text, failure, shown)
        else:
            trials.tell(running, mean_of(dice), dice=dice)
            log.info("%s: Dice %.2f (%s)", text, mean_of(dice), shown)


def _outcome(study: Study, ended: Sequence[Ended]) -> dict[str, Any]:
    """What ``outcome.yaml`` says of the trials: of equal ones the first wins, so that the defaults stay if they can."""
    config = study.config
    assert config.search is not None
    values = [trial.value for trial in ended]
    known = [value for value in values if value is not None]
    best = values.index(max(known)) if known else 0
    return {
        "method": config.method["name"],
        "source": config.source,
        "options": dict(ended[best].options),
        "dice": {"default": values[0], "tuned": values[best]},
        "best_trial": best + 1,
        "budget": study.trials,
        "failed": len(values) - len(known),
        "seed": config.search.seed,
        "passes": config.search.passes,
        "shifts": {name: [*strengths] for name, strengths in config.search.shifts.items()},
        "space": {name: dimension.record() for name, dimension in study.space.items()},
        "defaults": {name: study.defaults[name] for name in study.space},
        "trials": [_record(trial) for trial in ended],
    }


def _record(trial: Ended) -> dict[str, Any]:
    told = {"failed": trial.failure} if trial.value is None else {"dice": trial.value, "per_shift": dict(trial.dice)}
    return {**trial.options, **told}


def _origin(source: SourceModel, device: torch.device) -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "optuna")}
    return {
        "source_checkpoint": {"path": str(source.path), "sha256": source.sha256},
        "versions": {"tta_bench": __version__, **versions, "device": device_name(device)},
    }


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
