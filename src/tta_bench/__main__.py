"""``python -m tta_bench +method=grata source=D``: one cell, or with ``-m`` or ``experiment=`` a sweep of cells."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.runtime import signals
from tta_bench.runtime.imports import for_good
from tta_bench.runtime.threads import sleep_in_company, wait_by_company

if TYPE_CHECKING:
    from rich.console import Console

    from tta_bench.cell import Cell
    from tta_bench.launch.experiments import Plan
    from tta_bench.launch.sweep import Sweep
    from tta_bench.schema import RunConfig

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
wait_by_company(os.environ)

INTERRUPTED, TERMINATED, CRASH, USER_ERROR = 130, 143, 1, 2
"""Exit codes: Ctrl-C, SIGTERM, a fault of the program, bad input. Of a sweep with several, the first in this order."""

_outcomes: list[int] = []
"""The exit code of every job that ran in this process."""

_here = False
"""Whether this is the process of the command, not one of a launcher."""


def main() -> None:
    """Entry point; exits with 2 and sentences instead of a traceback if the input is bad."""
    global _here
    _here = True
    with signals.handled():
        _main()


def _main() -> None:
    with for_good():
        import hydra

        from tta_bench.errors import UserError, print_faults
        from tta_bench.launch.check import find_jobs
        from tta_bench.launch.composition import register_configs
        from tta_bench.launch.experiments import plan_of
        from tta_bench.launch.grammar import complete_experiment, quote_lists, with_group
        from tta_bench.launch.hydra_faults import refuse_flags, sentences
        from tta_bench.launch.network_check import (
            check_networks,
            check_pretrained_weights,
            check_source_images,
            unfinished,
        )
        from tta_bench.launch.stored import remember_sweep
        from tta_bench.launch.sweep import Sweep
        from tta_bench.launch.tuned import check_searched_images
        from tta_bench.runtime.names import print_everything, require_utf8
        from tta_bench.runtime.paths import CONFIG_DIR
        from tta_bench.sinks.base import missing_libraries

    print_everything()
    typed = sys.argv[1:]
    flags, overrides = _split(typed)
    only_shows = flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion
    jobs: list[RunConfig] = []
    plan, is_sweep, tunes = None, False, False
    try:
        require_utf8(sys.argv[1:])
        refuse_flags(flags)
        words = overrides
        overrides = quote_lists(overrides, flags.multirun, flags.config_dir)
        if not only_shows:
            overrides = with_group(complete_experiment(overrides, flags.config_dir), flags.multirun)
            found = find_jobs(overrides, multirun=flags.multirun, config_dir=flags.config_dir)
            jobs = [job.config for job in found]
            if lacking := missing_libraries(dict.fromkeys(name for config in jobs for name in config.logger)):
                raise UserError(lacking)
            check_source_images(jobs)
            check_searched_images(job.search for job in found)
            left = unfinished(jobs)
            check_networks(left)
            check_pretrained_weights(left)
            is_sweep = flags.multirun or len(jobs) > 1
            tunes = any(config.tune for config in jobs)
            if tunes and not all(config.tune for config in jobs):
                raise UserError("tune has several values: search with tune=true first, and run without it then")
            if any(job.row for job in found) and not tunes:
                name = next(text for text in overrides if text.startswith("experiment=")).partition("=")[2]
                others = [word for word in words if word.lstrip("+").partition("=")[0] != "experiment"]
                plan = plan_of(name, found, others)
            if is_sweep and not tunes:
                remember_sweep(typed, found, plan, flags.config_dir)
        sys.argv[1:] = [*_words(flags), *overrides]
    except UserError as error:
        print_faults(error)
        sys.exit(USER_ERROR)
    _outcomes.clear()
    try:
        with sentences():
            if only_shows or _concerns_hydra(overrides, flags.config_dir):
                register_configs(overrides)
                program = hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")(job)
                if only_shows:
                    program()
                else:
                    _run_by_hydra(program, Sweep(overrides, flags.config_dir, jobs), jobs)
            else:
                _run_here(jobs)
    except UserError as error:
        print_faults(error)
        sys.exit(USER_ERROR)
    except SystemExit as left:  # Hydra has said why
        sys.exit(USER_ERROR if left.code == 1 else left.code)
    finally:
        _tell_unsent(jobs, typed)
    if tunes:
        _show_searches(jobs)
    elif is_sweep:
        _show_sweep(jobs, plan)
    failures = [code for code in _outcomes or _outcomes_elsewhere(jobs) if code]
    if failures:
        if len(jobs) > 1:
            print(f"{len(failures)} of {len(jobs)} runs failed, see above", file=sys.stderr)
        sys.exit(_first(failures))


def _concerns_hydra(overrides: Sequence[str], config_dir: str | None) -> bool:
    """Whether keys of Hydra itself are set, for a launcher for instance, by a word or in a file of the user's."""
    files = Path(config_dir).rglob("*.yaml") if config_dir is not None else ()
    return any(text.lstrip("+").startswith("hydra") for text in overrides) or any(
        b"hydra" in path.read_bytes() for path in files
    )


def _run_here(configs: Sequence[RunConfig]) -> None:
    """Run what was checked, one after the other.

    Hydra's launchers compose every job again, where it runs: there is no public way to hand them what is composed.
    """
    from tta_bench.launch.packing import companions

    _show_progress()
    for root in dict.fromkeys(config.results_root for config in configs):
        root.mkdir(parents=True, exist_ok=True)
    with _watched(configs):
        for config, beside in zip(configs, companions(configs), strict=True):
            attempt(partial(_on_own_device, config, beside=beside))


def _run_by_hydra(program: Callable[[], object], sweep: Sweep, configs: Sequence[RunConfig]) -> None:
    """Run what was checked by the launcher that is chosen; in other processes, source models are trained first.

    Else the workers that want a model would wait for the one that trains it.
    """
    from tta_bench.launch.engine import share_cores
    from tta_bench.launch.progress import say
    from tta_bench.launch.workers import to_train

    if not sweep.engine.is_elsewhere:
        with _watched(configs):
            program()
        return
    sweep.connect()
    sleep_in_company(os.environ)
    told = share_cores(sweep.engine, len(configs), os.environ)
    if told is not None:
        print(told, flush=True)
    with signals.handed_on(sweep.stop), _watched(configs, elsewhere=True):
        first = to_train(configs)
        if first and len(configs) > 1:
            say(f"source models first: {len(first)}")
            sweep.launch(train, first)
        try:
            program()
        except Exception:
            signals.check()
            if not any(_outcomes_elsewhere(configs)):
                raise
            logging.getLogger("tta_bench").exception("the launcher %s has ended the sweep", sweep.engine.name)


def _watched(configs: Sequence[RunConfig], *, elsewhere: bool = False) -> AbstractContextManager[object]:
    """Progress of several cells, or of any in other processes; searches tell of their trials themselves."""
    from tta_bench.launch.progress import watched

    tunes = any(config.tune for config in configs)
    return watched(configs) if (elsewhere or len(configs) > 1) and not tunes else nullcontext()


def job(composed: Any) -> None:
    """One job of Hydra, in this process or in one of a launcher."""
    from tta_bench.launch.workers import begin, place, told

    if not _here:
        signals.install()
        signals.check()  # the process was told to stop, and given one job more
        engine = begin()
    with for_good():
        from omegaconf import OmegaConf

        from tta_bench.launch.composition import run_section
        from tta_bench.launch.targets import with_targets
        from tta_bench.launch.tuned import with_tuned
        from tta_bench.launch.validation import validate
        from tta_bench.runtime.names import print_everything

    print_everything()
    _show_progress()
    container: Any = OmegaConf.to_container(composed, resolve=True)

    def work(console: Console) -> None:
        config = with_tuned(with_targets(validate(run_section(container))))
        if _here:
            _on_own_device(config, console)
        else:
            with told(config), place(config, engine):
                run_and_show(config, console)

    attempt(work)


def train(config: RunConfig, _: Any) -> None:
    """Train the source model of a run, in a process of a launcher."""
    from tta_bench.launch.workers import begin, place, told
    from tta_bench.launch.workers import train as train_source_model
    from tta_bench.runtime.names import print_everything

    signals.install()
    signals.check()
    engine = begin()
    print_everything()
    _show_progress()

    def work(_: Console) -> None:
        with told(config), place(config, engine):
            train_source_model(config)

    attempt(work)


def _on_own_device(config: RunConfig, console: Console, beside: Sequence[RunConfig] = ()) -> None:
    from tta_bench.launch.workers import own_devices

    with own_devices(config):
        run_and_show(config, console, beside)


def run_and_show(config: RunConfig, console: Console, beside: Sequence[RunConfig] = ()) -> None:
    """Run, beside some of the runs to come, and show each cell as soon as it is finished; or search."""
    if config.tune:
        from tta_bench.search.tune import tune

        tune(config)
        return
    from tta_bench.cell import run
    from tta_bench.report.console import show

    for outcome in run(config, beside):
        show(console, *outcome)


def _show_sweep(jobs: Sequence[RunConfig], plan: Plan | None) -> None:
    """Print the one table of all cells."""
    from rich.console import Console

    from tta_bench.cell import Cell
    from tta_bench.report.sweep import show_sweep

    show_sweep(Console(), plan, [cell for config in jobs for cell in Cell.all_of(config)])


def _show_searches(jobs: Sequence[RunConfig]) -> None:
    """Print what the searches have found."""
    from rich.console import Console

    from tta_bench.report.search import search_table
    from tta_bench.search.study import Study

    Console().print(search_table([Study(config) for config in jobs]))


def attempt(work: Callable[[Console], object]) -> None:
    """Do one run and remember how it ended; a failing one does not stop the others."""
    from rich.console import Console

    from tta_bench.errors import UserError, print_faults

    try:
        work(Console())
        _outcomes.append(0)
    except UserError as error:
        signals.check()
        _outcomes.append(USER_ERROR)
        print_faults(error)
    except Exception:
        signals.check()  # what a library has made of it
        _outcomes.append(CRASH)
        logging.getLogger("tta_bench").exception("this run failed")


def _show_progress() -> None:
    """What this package logs goes to standard output, of other packages warnings alone."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("tta_bench").setLevel(logging.INFO)


def _split(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Hydra's flags and the overrides, in whatever order they stand."""
    from hydra._internal.utils import get_args_parser  # the flags of hydra.main, which has no public list of them

    parser = get_args_parser()
    parser.prog = "python -m tta_bench"
    parsed = parser.parse_intermixed_args(arguments)
    return parsed, parsed.overrides


def _words(flags: Any) -> list[str]:
    """Hydra's flags as words of a command line."""
    words = []
    for name, value in vars(flags).items():
        if name != "overrides" and value not in (None, False):
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return words


def _tell_unsent(jobs: Sequence[RunConfig], typed: Sequence[str]) -> None:
    """Say which finished results a sink has not taken; they are complete, so this decides no exit code."""
    asking = [config for config in jobs if config.logger]
    if not asking:
        return
    from tta_bench.cell import Cell
    from tta_bench.sinks.contents import TRAINING
    from tta_bench.sinks.delivery import unsent_sentences

    runs = {}
    for config in asking:
        for cell in Cell.all_of(config):
            for each in (cell, cell.reference()):
                finished = None if each is None else each.folder().finished()
                if each is not None and finished is not None:
                    runs[each.folder().path] = config.logger
                    training = Path(finished[0]["source_checkpoint"]["path"]).parent
                    runs |= {training: config.logger} if (training / TRAINING).is_file() else {}
    for sentence in unsent_sentences(((loggers, folder) for folder, loggers in runs.items()), typed):
        print(f"warning: {sentence}", file=sys.stderr)


def _outcomes_elsewhere(jobs: Sequence[RunConfig]) -> list[int]:
    """Exit codes of jobs that ran in the processes of a launcher, told by what they left behind."""
    from tta_bench.cell import Cell
    from tta_bench.search.study import Study

    if any(config.tune for config in jobs):
        return [0 if Study(config).outcome() else CRASH for config in jobs]
    return [_first([_outcome(cell) for cell in Cell.all_of(config)]) for config in jobs]


def _outcome(cell: Cell) -> int:
    status = cell.folder().status()
    if status == "interrupted":
        return TERMINATED if cell.folder().error() == "SIGTERM" else INTERRUPTED
    if cell.finished() is not None:
        return 0
    return USER_ERROR if cell.folder().error().startswith("UserError: ") else CRASH


def _first(codes: Sequence[int]) -> int:
    """The exit code of several."""
    return min(codes, key=(INTERRUPTED, TERMINATED, CRASH, USER_ERROR, 0).index)


if __name__ == "__main__":
    signals.install()
    # As a module of its name, which the processes of a launcher import: they get no copy of what stands here.
    from tta_bench.__main__ import main

    main()
