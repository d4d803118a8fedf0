"""Sweeps by every launcher, in processes of their own: progress, failures, exit codes, Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tta_bench.launch.sweep import descendants, slurm_jobs

TINY = (
    "data.image_size=64",
    "data.limit=3",
    "training.epochs=1",
    "training.min_steps=0",
    "model.encoder=tu-test_resnet",
    "model.decoder_channels=[16,16,8,8,8]",
    "device=cpu",
)
WORDS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "submitit_slurm": ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"),
}
PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
# Ray runs its workers at the lowest priority, which a busy machine gives no time at all.
ENVIRONMENT = {"COLUMNS": "80", "RAY_worker_niceness": "0"}
# A launcher starts up to five processes, each of which imports PyTorch: seconds on an idle machine, many minutes on one
# that computes. Only what hangs is stopped.
PATIENCE = 3600

SLURM = """ClusterName=local
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of one node on this machine: what to put into the environment."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None or os.getuid() != 0:
        pytest.skip("no slurmctld and munged (Debian: slurm-wlm, munge), or not root")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "slurm.conf").write_text(SLURM.format(host=os.uname().nodename.partition(".")[0], folder=folder))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        pytest.skip("munge has no key")
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=False)  # it may run already
    daemons = [subprocess.Popen([name, "-D"], env=environment) for name in ("slurmctld", "slurmd")]
    try:
        for _ in range(60):
            found = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True)
            if "idle" in found.stdout:
                break
            time.sleep(0.5)
        else:
            pytest.skip(f"the local Slurm has no idle node: {found.stdout}{found.stderr}")
        yield {"SLURM_CONF": environment["SLURM_CONF"]}
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            daemon.wait(30)


@pytest.fixture
def start(tmp_path, request):
    """Starts a sweep by an engine in ``tmp_path``."""
    started = []

    def run(engine, *words):
        if engine in PLUGINS:
            pytest.importorskip(f"hydra_plugins.hydra_{PLUGINS[engine]}_launcher")
        more = request.getfixturevalue("slurm") if engine == "submitit_slurm" else {}
        process = subprocess.Popen(
            [sys.executable, "-m", "tta_bench", "-m", *WORDS.get(engine, ()), *TINY, *words],
            cwd=tmp_path,
            env=os.environ | ENVIRONMENT | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):  # what submitit has started goes on without its launcher
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def statuses(folder):
    return sorted(json.loads(path.read_text())["status"] for path in folder.glob("outputs/cells/*/status.json"))


def failure_in(out, error):
    """The one line that tells of a failure."""
    lines = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 1, out + error
    return lines[0]


def last_count(out):
    """The last line of progress; workers of Ray may be heard after it, and the table is."""
    return [line for line in out.splitlines() if " cells done" in line][-1]


def all_logs(folder, *streams):
    """What a sweep has said, in the terminal or in the files of its jobs."""
    files = folder.glob("outputs/sweeps/*/.submitit/*/*.*")
    return "".join([*streams, *(path.read_text() for path in files if path.suffix in (".out", ".err"))])


engines = pytest.mark.parametrize("engine", [pytest.param(name, marks=pytest.mark.slow) for name in WORDS])


@pytest.mark.parametrize(
    "engine", ["joblib", *(pytest.param(name, marks=pytest.mark.slow) for name in WORDS if name != "joblib")]
)
def test_a_sweep_trains_its_source_models_first_and_shows_how_far_it_is(tmp_path, start, engine):
    out, error = start(engine, "+method=bn_only,tent", "source=A,D", "target=B").communicate(timeout=PATIENCE)
    lines = [line for line in out.splitlines() if " of 6 cells done" in line]
    assert lines[0] == "0 of 6 cells done", out + error
    assert lines[-1].startswith("6 of 6 cells done; ")
    assert "source models first: 2" in out
    told = all_logs(tmp_path, out, error)
    assert "trains the same source model" not in told, "nobody waits for a training"
    assert len(list(tmp_path.glob("outputs/source_models/*/model.ckpt"))) == 2
    assert statuses(tmp_path) == ["done"] * 6


@pytest.fixture
def site(tmp_path):
    """Two domains, one of which cannot be trained on."""
    for domain in ("empty", "north"):
        for kind, shape in (("image", (70, 90, 3)), ("mask", (70, 90))):
            (tmp_path / f"images/{domain}/{kind}").mkdir(parents=True)
            for index in range(3):
                pixels = np.random.default_rng(index).integers(0, 2, shape, np.uint8)
                if kind == "mask" and domain == "empty":
                    pixels[:] = 0
                Image.fromarray(pixels).save(tmp_path / f"images/{domain}/{kind}/{index}.png")
    return "data=folder", "data.root=images"


@engines
def test_a_failure_is_told_where_the_sweep_was_started_and_stops_no_other(tmp_path, start, site, engine):
    process = start(engine, "+method=bn_only", "source=empty,north", *site)
    out, error = process.communicate(timeout=PATIENCE)
    line = failure_in(out, error)
    assert line.startswith("failed: bn_only, source empty, seed 0: UserError: source=empty has no foreground"), out
    log = tmp_path / line.rpartition("(")[2].rstrip(")")
    assert "has no foreground" in log.read_text()
    assert statuses(tmp_path) == ["done", "done", "failed"]
    assert last_count(out).startswith("2 of 4 cells done, 1 failed")
    assert process.returncode == 2, error
    assert error.endswith("1 of 2 runs failed, see above\n")


@engines
def test_ctrl_c_ends_all_workers_in_order_though_they_are_not_signalled(tmp_path, start, engine):
    process = start(engine, "+method=tent", "source=A,D", "target=B", "protocol.steps=100000")
    end = time.monotonic() + PATIENCE
    while statuses(tmp_path) != ["done", "done", "running", "running"]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.2)
    workers = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out + error
    assert statuses(tmp_path) == ["done", "done", "interrupted", "interrupted"]
    assert "2 interrupted or killed" in last_count(out)
    assert "interrupted; what is finished is kept, the same command continues\n" in error
    time.sleep(3)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two nodes on this machine, with one core each."""
    utilities = pytest.importorskip("ray.cluster_utils")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    started = utilities.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    started.add_node(**node)
    started.wait_for_nodes()
    yield started
    started.shutdown()


def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_a_sweep_by_address_runs_on_both_nodes_of_a_cluster_until_ctrl_c_ends_it(tmp_path, start, site, cluster):
    address = f"hydra.launcher.ray.init.address={cluster.address}"
    words = ("hydra/launcher=ray", address, "+method=bn_only", "source=empty,north", *site)
    process = start("cluster", *words)
    out, error = process.communicate(timeout=PATIENCE)
    failure = failure_in(out, error)
    assert failure.startswith("failed: bn_only, source empty, seed 0: UserError: source=empty has no foreground"), out
    assert last_count(out).startswith("2 of 4 cells done, 1 failed")
    assert statuses(tmp_path) == ["done", "done", "failed"]
    assert process.returncode == 2, error

    shutil.rmtree(tmp_path / "outputs/cells")
    words = ("hydra/launcher=ray", address, "+method=tent,sar", "source=north", *site, "protocol.steps=100000")
    process = start("cluster", *words)
    end = time.monotonic() + PATIENCE
    while statuses(tmp_path).count("running") != 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.2)
    files = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/cells/*/status.json")]
    workers = [content["process"] for content in files if content["status"] == "running"]
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    assert {parent(worker) for worker in workers} == raylets, "a cell on each node"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out + error
    assert "interrupted; what is finished is kept, the same command continues\n" in error
    end = time.monotonic() + 30  # Ray ends them, once the command is gone
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_bad_input(tmp_path, start, site):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    address = "hydra.launcher.ray.init.address=127.0.0.1:9"
    process = start("cluster", "hydra/launcher=ray", address, "+method=bn_only", "source=north", *site)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert f"error: {address}: no Ray cluster can be joined there (" in error
    assert "Traceback" not in error


def test_jobs_of_slurm_are_found_by_what_submitit_leaves(tmp_path):
    for number in ("7_0", "7_1", "8_0"):
        (tmp_path / f"now/.submitit/{number}").mkdir(parents=True)
        (tmp_path / f"now/.submitit/{number}/{number}_submitted.pkl").touch()
    os.utime(tmp_path / "now/.submitit/8_0/8_0_submitted.pkl", (0, 0))
    assert slurm_jobs(tmp_path, time.time()) == ["7"]


def test_descendants_are_children_and_theirs():
    code = "import subprocess; print(subprocess.Popen(['sleep', '30']).pid, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:
        grandchild = int(child.stdout.readline())
        assert descendants(child.pid) == [grandchild]
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
        os.kill(grandchild, signal.SIGKILL)
        child.kill()
    assert child.pid not in descendants(os.getpid())
