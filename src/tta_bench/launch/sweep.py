"""A sweep whose cells run in the processes of a Hydra launcher: source models first, and an orderly end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.callbacks import Callbacks  # a launcher is given one, and there is no public way to have none
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from tta_bench.errors import UserError
from tta_bench.launch.composition import composer
from tta_bench.launch.engine import Engine

if TYPE_CHECKING:
    from tta_bench.cell import Cell
    from tta_bench.schema import RunConfig

_PATIENCE = 10.0  # seconds that the head of a cluster has to answer
_TIDYING = 8.0  # seconds that workers have to write down that they were stopped


class Sweep:
    """A launcher and the runs it is given.

    Args:
        overrides: the command line.
        config_dir: of Hydra's flag ``--config-dir``.
        configs: its runs.

    Raises:
        HydraException: Hydra's own part of the configuration cannot be composed.
    """

    def __init__(self, overrides: Sequence[str], config_dir: str | None, configs: Sequence[RunConfig]) -> None:
        self._config_dir, self._configs = config_dir, configs
        with composer(config_dir) as hydra:
            self._config = hydra.loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
        options: Any = OmegaConf.to_container(self._config.hydra.launcher, resolve=True)
        self.engine = Engine(self._config.hydra.runtime.choices["hydra/launcher"], options)
        self._begin = time.time()

    def connect(self) -> None:
        """Join the Ray cluster whose address is given.

        Hydra's launcher asks every Ray for a size of its object store, which one that runs already refuses; it leaves
        a connection alone that is there before.

        Raises:
            UserError: nothing answers there, or it refuses what else is asked for.
        """
        init = dict(self.engine.options.get("ray", {}).get("init", {})) if self.engine.name == "ray" else {}
        if init.get("address") is None:
            return
        ray: Any = import_module("ray")
        host, colon, port = str(init["address"]).rpartition("://")[2].rpartition(":")
        try:
            if colon and port.isdecimal():  # Ray would try for many minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
            ray.init(**init)
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"hydra.launcher.ray.init.address={init['address']}: no Ray cluster can be joined there ({first}): "
                "start one with 'ray start --head' and give the address that it prints"
            ) from error

    def launch(self, task: Callable[[RunConfig, Any], None], configs: Sequence[RunConfig]) -> None:
        """Have the launcher do something else with some runs, a job each, and wait for all of them.

        Args:
            task: what to do with a run; the second argument is what Hydra has composed.
            configs: the runs.
        """
        with composer(self._config_dir) as hydra:
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=HydraContext(config_loader=hydra.loader, callbacks=Callbacks()),
                task_function=partial(_numbered, task, tuple(configs)),
                config=self._config,
            )
            launcher.launch([[] for _ in configs], initial_job_idx=0)

    def stop(self, number: signal.Signals) -> None:
        """Hand a signal on to the workers, and wait while they write down how far they have come.

        Launchers end with their process: joblib kills its workers, those of submitit go on as if nothing had happened.

        Raises:
            KeyboardInterrupt: the launcher would not notice another exception.
        """
        if self.engine.name == "submitit_slurm":
            self._stop_slurm()
        elif self.engine.name == "ray":  # its other processes are Ray's own
            own = set(descendants(os.getpid()))
            _signal([pid for pid in self._busy() if pid in own], number)
        else:
            # submitit has its jobs ignore SIGTERM.
            _signal(descendants(os.getpid()), signal.SIGINT if self.engine.name == "submitit_local" else number)
        deadline = time.monotonic() + _TIDYING
        while self._busy() and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.engine.name == "ray":
            raise KeyboardInterrupt  # all that gets through Ray's waiting

    def _busy(self) -> list[int]:
        """Processes that work on cells of this sweep, on whatever machine."""
        found = []
        for cell in self._cells():
            folder = cell.folder()
            if folder.status() == "running" and folder.is_held() and (pid := folder.process()) is not None:
                found.append(pid)
        return found

    def _cells(self) -> list[Cell]:
        from tta_bench.cell import Cell

        cells = [cell for config in self._configs for cell in Cell.all_of(config)]
        every = [each for cell in cells for each in (cell, cell.reference()) if each is not None]
        return list({cell.folder().path: cell for cell in every}.values())

    def _stop_slurm(self) -> None:
        """Cancel what waits, and let what runs tidy up: submitit has its jobs ignore the SIGTERM of a cancelling."""
        jobs = slurm_jobs(Path(str(self._config.hydra.sweep.dir)).parent, self._begin)
        scancel = shutil.which("scancel")
        if scancel is None or not jobs:
            return
        for words in (["--state=PENDING"], ["--signal=INT"]):
            subprocess.run([scancel, "--quiet", *words, *jobs], check=False, capture_output=True)


def slurm_jobs(sweeps: Path, since: float) -> list[str]:
    """Numbers of the Slurm arrays that submitit has submitted for sweeps begun since then."""
    scripts = sweeps.glob("*/.submitit/*/*_submitted.pkl")
    return sorted({path.parent.name.partition("_")[0] for path in scripts if path.stat().st_mtime >= since - 1})


def descendants(process: int) -> list[int]:
    """Processes that a process has started, and those that they have, as Linux lists them; none elsewhere."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):  # it may be over
            fields = entry.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found: list[int] = []
    level = [process]
    while level:
        level = [child for each in level for child in parents.get(each, [])]
        found += level
    return found


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _numbered(task: Callable[[RunConfig, Any], None], configs: Sequence[RunConfig], composed: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    task(configs[HydraConfig.get().job.num], composed)
