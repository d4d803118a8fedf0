"""The trials of a search, in Optuna's own journal: any number of processes take them, none more than the budget.

Whatever is asked of the journal happens under a lock of the folder. A running trial holds a lock of its own, which the
system frees if its process is killed: such a trial is given up, and taken again. What is suggested depends on the seed,
the number of the trial and the trials that have ended, so that one process, stopped or not, suggests the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tta_bench.errors import UserError
from tta_bench.methods.space import Dimension
from tta_bench.ops.draws import seed_of
from tta_bench.runtime.locks import is_free

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

_DICE = "dice"
"""Attribute of a trial with a value: that of each pseudo-target."""

_FAILED = "failed"
"""Attribute of a trial that has ended without a value; one that was killed has none."""


def require_optuna() -> None:
    """Find out whether there is Optuna, which is an extra.

    Raises:
        UserError: there is none.
    """
    if find_spec("optuna") is None:
        raise UserError("a search needs Optuna: install it with pip install 'tta-bench[search]'")


@dataclass(frozen=True)
class Ended:
    """A trial that has ended.

    Attributes:
        options: what it tried.
        value: of the objective; None for one that failed.
        failure: why, as a clause; empty for one that did not.
        dice: pseudo-target -> Dice in percent; empty for one that failed.
    """

    options: Mapping[str, Any]
    value: float | None
    failure: str
    dice: Mapping[str, float]


@dataclass(frozen=True)
class Running:
    """A trial of this process.

    Attributes:
        number: among those that count, from 0.
        options: to try.
        trial: of Optuna.
        lock: that it holds.
    """

    number: int
    options: Mapping[str, Any]
    trial: optuna.trial.Trial
    lock: FileLock


class Trials:
    """The trials of one search.

    Args:
        journal: file of Optuna's journal; its folder is made.
        space: option -> where it is searched.
        defaults: values of these options in the first trial.
        budget: number of trials.
        seed: of the suggestions.
    """

    def __init__(
        self, journal: Path, space: Mapping[str, Dimension], defaults: Mapping[str, Any], budget: int, seed: int
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._journal, self._budget, self._seed = journal, budget, seed
        self._defaults = dict(defaults)
        self._distributions = {name: _distribution(dimension) for name, dimension in space.items()}
        self._running = _folder_of_locks(journal)
        self._running.mkdir(parents=True, exist_ok=True)
        with self._held():
            lock: Any = _NoLock()
            backend = JournalFileBackend(str(journal), lock_obj=lock)
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="search",
                direction="maximize",
                load_if_exists=True,
            )

    def ask(self) -> Running | None:
        """The next trial for this process; None if all that the budget allows have ended or run elsewhere."""
        import optuna

        with self._held():
            number, waiting = 0, False
            for each in self._study.get_trials(deepcopy=False):
                waiting = waiting or each.state == optuna.trial.TrialState.WAITING
                if each.state == optuna.trial.TrialState.RUNNING and is_free(self._lock_of(each.number)):
                    self._study.tell(each.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
                else:
                    number += _counts(each)
            if number >= self._budget:
                return None
            seed = seed_of(self._seed, "trial", number) % 2**32
            self._study.sampler = optuna.samplers.TPESampler(seed=seed)
            if number == 0 and not waiting:
                self._study.enqueue_trial(self._defaults)
            trial = self._study.ask(self._distributions)
            lock = FileLock(self._lock_of(trial.number))
            lock.acquire()
            return Running(number, dict(trial.params), trial, lock)

    def tell(
        self, running: Running, value: float | None, failure: str = "", dice: Mapping[str, float] | None = None
    ) -> None:
        """How a trial has ended.

        Args:
            running: the trial.
            value: of the objective; None if it failed.
            failure: why.
            dice: pseudo-target -> Dice in percent, of which the value is the mean.
        """
        import optuna

        with self._held():
            if value is None:
                running.trial.set_user_attr(_FAILED, failure)
                self._study.tell(running.trial.number, state=optuna.trial.TrialState.FAIL)
            else:
                running.trial.set_user_attr(_DICE, dict(dice or {}))
                self._study.tell(running.trial.number, value)
            running.lock.release()
            self._lock_of(running.trial.number).unlink(missing_ok=True)

    def ended(self) -> list[Ended]:
        """The trials that have ended, with a value or without, in their order."""
        with self._held():
            trials = self._study.get_trials(deepcopy=False)
        return [
            Ended(dict(trial.params), trial.value, trial.user_attrs.get(_FAILED, ""), trial.user_attrs.get(_DICE, {}))
            for trial in trials
            if trial.state.is_finished() and _counts(trial)
        ]

    def _lock_of(self, number: int) -> Path:
        return self._running / f"{number}.lock"

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Alone with the journal; half a line that a killed process has left at its end is taken away."""
        with FileLock(self._journal.with_suffix(".lock")):
            content = self._journal.read_bytes() if self._journal.is_file() else b"\n"
            if not content.endswith(b"\n"):
                with self._journal.open("r+b") as file:
                    file.truncate(content.rfind(b"\n") + 1)
            yield


def is_used(journal: Path) -> bool:
    """Whether a process is at a trial of this journal."""
    return not all(map(is_free, _folder_of_locks(journal).glob("*.lock")))


def _folder_of_locks(journal: Path) -> Path:
    return journal.with_suffix(".running")


def _counts(trial: Any) -> bool:
    """Whether a trial is one of the budget: it runs, has a value, or has failed by itself."""
    import optuna

    states = (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.COMPLETE)
    return trial.state in states or (trial.state == optuna.trial.TrialState.FAIL and _FAILED in trial.user_attrs)


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


class _NoLock:
    """For the journal, which is under a lock already, one that a killed process cannot leave behind."""

    def acquire(self) -> bool:
        """Always at once."""
        return True

    def release(self) -> None:
        """Nothing to do."""
