"""Cores and GPUs of a machine are shared out between the workers of a sweep."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

from tta_bench.errors import UserError
from tta_bench.launch import engine, workers
from tta_bench.launch.check import check
from tta_bench.launch.engine import Engine, core_places, share_allocation, share_cores
from tta_bench.runtime.places import chosen_devices, claimed, device_places


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("jobs", [1, 2, 7, 300])
@pytest.mark.parametrize("asked", [-2, -1, 1, 2, 5])
@pytest.mark.parametrize("name", ["joblib", "submitit_local"])
def test_workers_never_have_more_threads_than_there_are_cores(monkeypatch, cores, jobs, asked, name):
    monkeypatch.setattr(engine, "available_cores", lambda: cores)
    environment, launcher = {}, Engine(name, {"n_jobs": asked})
    assert share_cores(launcher, jobs, environment) is not None
    threads, places = int(environment["OMP_NUM_THREADS"]), len(core_places(environment))
    assert engine.workers_at_once(launcher, jobs, cores) * threads <= cores
    assert places * threads <= cores, "also those that a launcher starts beyond"
    assert share_cores(launcher, jobs, {"OMP_NUM_THREADS": "3"}) is None, "the user has chosen"


def test_cores_are_left_to_schedulers_that_share_them_out():
    environment = {"SLURM_CPUS_PER_TASK": "6"}
    for name in ("basic", "ray", "submitit_slurm"):
        assert share_cores(Engine(name), 9, environment) is None
    share_allocation(environment)
    assert environment["OMP_NUM_THREADS"] == "6"
    environment["SLURM_CPUS_PER_TASK"] = "2"
    share_allocation(environment)
    assert environment["OMP_NUM_THREADS"] == "6", "the user has chosen"


def test_every_gpu_has_one_cell_before_any_has_two():
    assert device_places([0, 1, 3], 2) == [(0, 0), (1, 0), (3, 0), (0, 1), (1, 1), (3, 1)]
    assert chosen_devices(3, None) == [0, 1, 2]
    assert chosen_devices(3, (2, 0)) == [2, 0]
    with pytest.raises(UserError, match=r"launch.devices=\[3\]: PyTorch finds 3 usable GPUs, counted from 0"):
        chosen_devices(3, (3,))
    with pytest.raises(UserError, match=r"finds 0 usable GPUs: name those, or use launch.devices=auto"):
        chosen_devices(0, (0,))


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """A machine of its own, as far as places go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("visible", "per_device", "wanted", "used"),
    [("4,6", 1, "auto", [4, 6]), ("4,6", 2, "auto", [4, 6, 4, 6]), ("6,4,5", 2, "[2,0]", [5, 6, 5, 6])],
)
def test_workers_take_the_visible_gpus_in_turn(monkeypatch, temporary, visible, per_device, wanted, used):
    """Simulated: CUDA numbers what ``CUDA_VISIBLE_DEVICES`` shows from 0, and a GPU keeps its identity."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    physical = [int(number) for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(physical))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"GPU-{physical[i]}"))
    current = []
    monkeypatch.setattr(workers, "_using", lambda device: current.append(physical[device]) or ExitStack())
    words = [f"launch.cells_per_device={per_device}", f"launch.devices={wanted}"]
    (config,) = check(["+method=tent", "source=D", *words], multirun=False)
    with ExitStack() as held:
        for _ in used:
            held.enter_context(workers.place(config, Engine("joblib")))
    assert current == used


def test_a_place_is_free_again_when_its_process_is_killed(temporary, tmp_path):
    code = (
        "import tempfile, sys, time; tempfile.tempdir = sys.argv[1]\n"
        "from tta_bench.runtime.places import claimed\n"
        "with claimed(['a', 'b']) as position: print(position, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "0\n"
        with claimed(["a", "b"]) as position:
            assert position == 1
        other.kill()
    with claimed(["a", "b"]) as position:
        assert position == 0


@pytest.mark.parametrize(
    "word", ["launch.devices=all", "launch.devices=[0,0]", "launch.cells_per_device=0", "launch.pack=1"]
)
def test_what_cannot_be_shared_out_is_refused(word):
    with pytest.raises(UserError, match=word.split("=")[0]):
        check(["+method=tent", word])


def test_one_run_of_each_source_model_is_trained_first(tmp_path):
    words = ["+method=tent,bn_only", "source=A,D", "training.epochs=1,2", f"results_root={tmp_path}"]
    configs = check(words)
    first = workers.to_train(configs)
    assert [(config.source, config.training.epochs) for config in first] == [("A", 1), ("A", 2), ("D", 1), ("D", 2)]
