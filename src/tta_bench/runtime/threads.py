"""How many threads PyTorch computes with, and how they wait for each other; read when it is first imported.

A step of a method is thousands of short parallel pieces. A thread that sleeps between two of them has to be woken,
which takes a quarter of the time of a step; one that spins until the next piece takes the core from others.
So threads spin where nobody else is at work, and only for a while: a thread that waits for longer sleeps.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
"""Threads of PyTorch; who sets it has chosen."""

POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
"""How threads wait; who sets one of them has chosen."""

_ENOUGH_SPINS = "3000"
"""Turns, about 0.1 ms: ``docs/performance.md`` has the times with more and with fewer, alone and in company."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wanted_threads(environment: Mapping[str, str]) -> int | None:
    """The number of threads that is set; None if none is, which means all cores."""
    text = environment.get(THREADS, "")
    return int(text) if text.isdecimal() and int(text) > 0 else None


def wait_by_company(environment: MutableMapping[str, str]) -> None:
    """Let threads spin if the cores that they take are idle, else sleep, unless it is set.

    Two runs that spin on the same cores hinder each other; one that came to an idle machine, and one that came later
    and sleeps, hardly do.
    """
    if POLICY in environment or SPINS in environment:
        return
    cores = available_cores()
    others = _others_running()
    if others is not None and others + (wanted_threads(environment) or cores) <= cores:
        environment[SPINS] = _ENOUGH_SPINS
    else:
        environment[POLICY] = "passive"


def sleep_in_company(environment: MutableMapping[str, str]) -> None:
    """For processes that are started with this environment and share the cores: take back that threads spin."""
    if environment.get(SPINS) == _ENOUGH_SPINS:
        del environment[SPINS]
        environment.setdefault(POLICY, "passive")


@contextmanager
def computing_with(count: int) -> Iterator[None]:
    """Let every operation of torch on the host take so many threads, also in threads that begin within."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _others_running(looks: int = 5, pause: float = 0.002) -> int | None:
    """How many threads beside this one run or want to, a median; None where the system does not tell."""
    counts = []
    for _ in range(looks):
        try:
            counts.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1)
        except (OSError, ValueError, IndexError):
            return None
        time.sleep(pause)
    return int(statistics.median(counts))
