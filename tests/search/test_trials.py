"""The budget of trials: shared by processes, resumed after a kill, the same for a seed."""

import multiprocessing

import pytest

from tta_bench.methods.space import Dimension

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'tta-bench[search]'")

from tta_bench.search.trials import Trials

SPACE = {
    "rate": Dimension((), 1e-5, 1e-1, True),
    "steps": Dimension((), 1, 4, whole=True),
    "kind": Dimension(("a", "b")),
}
DEFAULTS = {"rate": 1e-3, "steps": 2, "kind": "b"}
BUDGET = 14  # beyond the ten that are drawn at random


def trials(folder, seed=0):
    return Trials(folder / "trials.journal", SPACE, DEFAULTS, BUDGET, seed)


def value(options):
    return -abs(options["rate"] - 0.02) - options["steps"]


def finish(search):
    while (running := search.ask()) is not None:
        if running.options["steps"] == 4:
            search.tell(running, None, "not finite")
        else:
            search.tell(running, value(running.options), dice={"D noise": value(running.options)})
    return search.ended()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finish(trials(tmp_path_factory.mktemp("whole")))


def test_the_defaults_come_first_and_the_budget_is_kept(whole):
    assert len(whole) == BUDGET
    assert whole[0].options == DEFAULTS
    failed = [trial for trial in whole if trial.options["steps"] == 4]
    assert failed
    assert all(trial.value is None and trial.failure == "not finite" for trial in failed)
    assert all(trial.value == value(trial.options) for trial in whole if trial not in failed)
    assert all(trial.options[name] in SPACE[name] for trial in whole for name in SPACE)


def test_another_seed_tries_other_options(tmp_path, whole):
    assert finish(trials(tmp_path, seed=1))[1:] != whole[1:]


@pytest.mark.parametrize("killed_at", [0, 3, 12])
def test_a_killed_search_goes_on_to_the_same_trials(tmp_path, whole, killed_at):
    search = trials(tmp_path)
    for _ in range(killed_at):
        running = search.ask()
        failed = running.options["steps"] == 4
        told = {"failure": "not finite"} if failed else {"dice": {"D noise": value(running.options)}}
        search.tell(running, None if failed else value(running.options), **told)
    search.ask().lock.release()  # as the system does for a process that is killed
    journal = tmp_path / "trials.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "trial')  # it was writing
    assert finish(trials(tmp_path)) == whole


def test_a_trial_of_another_process_is_neither_taken_nor_given_up(tmp_path):
    first = trials(tmp_path)
    running = first.ask()
    second = trials(tmp_path)
    other = second.ask()
    assert (running.number, other.number) == (0, 1)
    assert len(finish(second)) == BUDGET - 2  # both still run
    first.tell(running, 0.5)
    second.tell(other, 0.25)
    assert [trial.value for trial in first.ended()[:2]] == [0.5, 0.25]
    assert len(first.ended()) == BUDGET


def _work(folder):
    finish(trials(folder))


def test_processes_share_one_budget(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ended = trials(tmp_path).ended()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(ended) == BUDGET
    assert sum(trial.options == DEFAULTS for trial in ended) == 1
