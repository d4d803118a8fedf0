"""The launcher of a sweep: what it is told on the command line, and how many threads its workers may have."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from tta_bench.runtime.threads import THREADS, available_cores, wanted_threads


@dataclass(frozen=True)
class Engine:
    """A Hydra launcher.

    Attributes:
        name: as in ``hydra/launcher=NAME``; ``basic`` runs everything in this process.
        options: its keys, those of ``hydra.launcher``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_elsewhere(self) -> bool:
        """Whether cells run in other processes."""
        return self.name != "basic"

    @property
    def shares_cores(self) -> bool:
        """Whether its workers run on this machine and nobody else shares out the cores."""
        return self.name in ("joblib", "submitit_local")


def workers_at_once(engine: Engine, jobs: int, cores: int) -> int:
    """How many workers run at once where cores are shared; ``submitit_local`` starts all jobs together."""
    asked = int(engine.options.get("n_jobs") or 1) if engine.name == "joblib" else jobs
    if asked < 0:  # as joblib counts: -1 is all cores, -2 all but one
        asked = max(1, cores + 1 + asked)
    return max(1, min(asked, jobs, cores))


def threads_per_worker(engine: Engine, jobs: int, cores: int) -> int:
    """Threads of a worker of :func:`workers_at_once`, so that all of them together have no more than the cores."""
    return max(1, cores // workers_at_once(engine, jobs, cores))


def share_cores(engine: Engine, jobs: int, environment: MutableMapping[str, str]) -> str | None:
    """Set the threads of workers that inherit this environment, unless they are set.

    Returns:
        What was set, as a sentence; None if nothing.
    """
    if not engine.shares_cores or THREADS in environment:
        return None
    threads = threads_per_worker(engine, jobs, available_cores())
    environment[THREADS] = str(threads)
    return (
        f"{workers_at_once(engine, jobs, available_cores())} workers at once, {THREADS}={threads} each; source models "
        "that are trained with another number of threads differ in the last digits"
    )


def share_allocation(environment: MutableMapping[str, str]) -> None:
    """In a Slurm job: as many threads as it has cores, unless they are set; Slurm may leave that to the program."""
    cores = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE")
    if cores is not None and cores.isdecimal():
        environment.setdefault(THREADS, cores)


def core_places(environment: Mapping[str, str]) -> list[str]:
    """Names of the places that the cores of this machine have for workers of so many threads."""
    return [f"cores-{place}" for place in range(max(1, available_cores() // (wanted_threads(environment) or 1)))]
