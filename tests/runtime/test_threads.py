import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tta_bench.runtime import threads
from tta_bench.runtime.threads import available_cores, computing_with, sleep_in_company, wait_by_company


@pytest.mark.parametrize(
    ("cores", "others", "environment", "spins"),
    [
        (2, 0, {}, True),
        (2, 1, {}, False),
        (8, 3, {"OMP_NUM_THREADS": "4"}, True),
        (8, 5, {"OMP_NUM_THREADS": "4"}, False),
        (2, None, {}, False),
    ],
)
def test_threads_spin_where_their_cores_are_idle(monkeypatch, cores, others, environment, spins):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    monkeypatch.setattr(threads, "_others_running", lambda: others)
    wait_by_company(environment)
    assert (threads.SPINS in environment, threads.POLICY in environment) == (spins, not spins)
    sleep_in_company(environment)
    assert threads.SPINS not in environment
    assert environment[threads.POLICY] == "passive", "workers that share the cores sleep"


@pytest.mark.parametrize("chosen", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "5"}])
def test_who_sets_how_threads_wait_has_chosen(chosen):
    environment = dict(chosen)
    wait_by_company(environment)
    sleep_in_company(environment)
    assert environment == chosen


@pytest.mark.skipif(not Path("/proc/loadavg").is_file(), reason="the system does not tell how many threads run")
def test_a_run_beside_others_sees_them():
    environment: dict[str, str] = {}
    with ExitStack() as stack:
        for _ in range(available_cores()):
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(other.kill)
        wait_by_company(environment)
    assert environment == {"OMP_WAIT_POLICY": "passive"}


def test_torch_computes_with_so_many_threads_within_and_with_as_many_as_before_afterwards():
    before = torch.get_num_threads()
    with computing_with(1), ThreadPoolExecutor(1) as pool:
        assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before
