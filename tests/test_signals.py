"""Ctrl-C and SIGTERM: one sentence, code 130 or 143, status ``interrupted``, wherever they strike."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import forked
from tta_bench.models.checkpoint import to_official
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.runtime import signals
from tta_bench.runtime.signals import Stopped, handled, stop_signal

CODES = {"SIGINT": 130, "SIGTERM": 143}
SENTENCES = {
    "SIGINT": "interrupted; what is finished is kept, the same command continues\n",
    "SIGTERM": "terminated; what is finished is kept, the same command continues\n",
}
both = pytest.mark.parametrize("name", CODES)


@pytest.fixture
def installed(monkeypatch):
    """The handlers in this process, as before afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(signals, "_received", None)
    monkeypatch.setattr(signals, "_owner", None)
    signals.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(capsys, work):
    """Exit code and standard error of a program that does some work."""
    with pytest.raises(SystemExit) as left, handled():
        work()
    return left.value.code, capsys.readouterr().err


# The mechanism


@both
@pytest.mark.parametrize("becomes", [None, RuntimeError("made of it"), ImportError("made of it"), SystemExit(0)])
def test_a_signal_ends_a_program_whatever_a_library_makes_of_the_exception(installed, capsys, name, becomes):
    def work():
        try:
            signal.raise_signal(getattr(signal, name))
        except Stopped:
            if becomes is not None:
                raise becomes from None

    assert ended(capsys, work) == (CODES[name], SENTENCES[name])


@both
def test_further_signals_are_ignored_while_the_first_is_handled_and_afterwards(installed, capsys, name):
    tidied = []

    def work():
        try:
            signal.raise_signal(getattr(signal, name))
        finally:
            for other in CODES:
                signal.raise_signal(getattr(signal, other))
            tidied.append(True)

    assert ended(capsys, work) == (CODES[name], SENTENCES[name])
    assert tidied
    for other in CODES:
        signal.raise_signal(getattr(signal, other))


def test_the_next_checkpoint_stops_where_the_exception_got_lost(installed):
    signals.check()
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"):
        signals.check()


@pytest.mark.parametrize(
    ("error", "number"),
    [(KeyboardInterrupt(), 2), (Stopped(15), 15), (SystemExit(1), None), (MemoryError(), None), (ValueError(), None)],
)
def test_without_handlers_an_exception_tells_whether_a_signal_caused_it(error, number):
    assert stop_signal(error) == number


def test_the_exception_travels_between_processes():
    back = pickle.loads(pickle.dumps(Stopped(15)))
    assert (back.signal, str(back)) == (signal.SIGTERM, "SIGTERM")


def test_faults_and_refusals_go_through(installed, capsys):
    assert ended(capsys, lambda: sys.exit(2)) == (2, "")
    with pytest.raises(ZeroDivisionError), handled():
        1 / 0  # noqa: B018


def test_a_handler_of_another_library_stays(monkeypatch):
    monkeypatch.setattr(signals, "_owner", None)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    taken = signal.getsignal(signal.SIGTERM)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        signals.install()
        assert signal.getsignal(signal.SIGTERM) is taken
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


PROGRAM = """
import os, signal, sys
from tta_bench.runtime import signals
signals.install()
print("what is said before")
with signals.handled():
{body}
{after}
"""


def program(tmp_path, *body, after=""):
    """A program without torch, in a process of its own."""
    script = PROGRAM.format(body="\n".join(f"    {line}" for line in body), after=after)
    return subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment()
    )


def environment(**more):
    path = str(Path(signals.__file__).parents[2])
    return os.environ | {"PYTHONPATH": path, "COLUMNS": "80"} | more


@both
@pytest.mark.parametrize("swallows", ["import struck", "try: import struck\n    except: pass"])
def test_a_signal_in_an_import_ends_at_once(tmp_path, name, swallows):
    (tmp_path / "struck.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})\nprint('imported')\n")
    done = program(tmp_path, swallows, "print('goes on')")
    assert (done.returncode, done.stdout, done.stderr) == (CODES[name], "what is said before\n", SENTENCES[name])


def test_a_signal_in_an_import_raises_where_something_has_to_be_put_in_order(tmp_path):
    (tmp_path / "struck.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    done = program(tmp_path, "with signals.at_stake():", "    try: import struck", "    finally: print('tidied')")
    assert (done.returncode, done.stderr) == (143, SENTENCES["SIGTERM"])
    assert done.stdout.endswith("tidied\n")


def test_who_loses_patience_ends_it_at_once(tmp_path):
    done = program(
        tmp_path,
        "try: os.kill(os.getpid(), signal.SIGTERM)",
        "finally:",
        "    signals._PATIENCE = 0",
        "    os.kill(os.getpid(), signal.SIGINT)",
        "    print('tidying takes for ever')",
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "what is said before\n", SENTENCES["SIGTERM"])


@both
def test_a_signal_after_the_work_changes_nothing(tmp_path, name):
    done = program(tmp_path, "pass", after=f"os.kill(os.getpid(), signal.{name})")
    assert (done.returncode, done.stdout, done.stderr) == (0, "what is said before\n", "")


@both
def test_a_forked_worker_leaves_it_to_its_parent(tmp_path, name):
    fork = f"pid = os.fork(); pid or (os.kill(os.getpid(), signal.{name}), os._exit(7))"
    done = program(tmp_path, fork, "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))")
    assert (done.returncode, done.stderr) == (7, "")


# Whole commands, in processes of their own

TINY = (
    "+method=tent",
    "source=D",
    "target=A,C",
    "data.image_size=64",
    "data.limit=4",
    "training.epochs=1",
    "training.min_steps=0",
    "model.encoder=tu-test_resnet",
    "model.decoder_channels=[16,16,8,8,8]",
    "device=cpu",
)
TRAINING = "call tta_bench.source.module:SourceTraining.training_step"
ADAPTATION = "call tta_bench.methods.tent:Tent.adapt"
ENDLESS = {TRAINING: ("training.epochs=100000",), ADAPTATION: ("protocol.steps=100000",)}


def fresh(*command, **options):
    """A program in a Python of its own."""
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, **options)


def struck(folder, *strikes, words=TINY, module="tta_bench", run=fresh, **more):
    """A command that gets signals, each as ``(point, name, whole group)``; see ``struck.py``."""
    command = (Path(__file__).with_name("struck.py"), json.dumps(strikes), module, *words)
    return run(*command, cwd=folder, env=environment(**more), start_new_session=True)


def statuses(folder):
    return sorted(json.loads(path.read_text())["status"] for path in folder.glob("outputs/cells/*/status.json"))


def assert_stopped(done, name):
    assert (done.returncode, done.stderr) == (CODES[name], SENTENCES[name]), done.stdout


def assert_tidy(folder):
    """No temporary file anywhere, no worker process."""
    assert not [path for path in folder.rglob("*") if path.suffix == ".part" or ".part-" in path.name]
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("module", ["tta_bench", "tta_bench.cli"])
def test_while_torch_is_imported(tmp_path, module):
    words = TINY if module == "tta_bench" else ("status", "first_look")
    assert_stopped(struck(tmp_path, ("import torch", "SIGTERM", False), words=words, module=module), "SIGTERM")
    assert list(tmp_path.iterdir()) == []


def test_in_training_with_workers_all_of_which_are_signalled(tmp_path):
    words = (*TINY, *ENDLESS[TRAINING], "training.workers=1")
    assert_stopped(struck(tmp_path, (TRAINING, "SIGTERM", True), words=words, run=forked.run), "SIGTERM")
    assert_tidy(tmp_path)
    assert statuses(tmp_path) == []


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    ("group", "slurm"), [(False, False), (True, False), (False, True)], ids=["alone", "group", "slurm"]
)
@pytest.mark.parametrize("point", [TRAINING, ADAPTATION], ids=["training", "adaptation"])
def test_in_the_work(tmp_path, name, group, slurm, point):
    cluster = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "job"} if slurm else {}
    other = "SIGINT" if name == "SIGTERM" else "SIGTERM"
    strikes = (point, name, group), ("os.rename status.json", other, False)
    words = (*TINY, *ENDLESS[point], f"training.workers={int(group)}")
    assert_stopped(struck(tmp_path, *strikes, words=words, **cluster), name)
    assert_tidy(tmp_path)
    assert statuses(tmp_path) == (["done", "interrupted"] if point == ADAPTATION else [])


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("import torch._C", []),
        ("import hydra", []),
        ("import segmentation_models_pytorch", []),
        ("open images.npy", []),
        ("open index.json", []),
        ("os.rename model.ckpt", []),
        ("open run.log", ["interrupted"]),
        ("os.rename predictions.npz", ["interrupted"]),
        ("os.rename summary.json", ["interrupted"]),
        ("open per_image.csv", ["done"]),
    ],
)
def test_at_other_points_of_a_run_and_the_next_one_completes_it(tmp_path, name, point, left):
    assert_stopped(struck(tmp_path, (point, name, False)), name)
    assert_tidy(tmp_path)
    assert statuses(tmp_path) == left
    assert struck(tmp_path).returncode == 0
    assert statuses(tmp_path) == ["done", "done"]


@pytest.mark.slow
@both
def test_a_sweep_stops_as_a_whole(tmp_path, name):
    words = ("-m", *TINY[1:], "+method=tent,bn_only", *ENDLESS[ADAPTATION])
    done = struck(tmp_path, (ADAPTATION, name, False), words=words)
    assert_stopped(done, name)
    assert "bn_only: " not in done.stdout
    assert statuses(tmp_path) == ["done", "interrupted"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a small data set and an official checkpoint."""
    root = tmp_path_factory.mktemp("site")
    for kind, shape in (("image", (70, 90, 3)), ("mask", (70, 90))):
        (root / "images/north" / kind).mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 2, shape, np.uint8)
            Image.fromarray(pixels).save(root / f"images/north/{kind}/{index}.png")
    model = ResUNet(2, branches=("reconstruction", "denoising", "super_resolution", "rotation"))
    state = {to_official(key): value for key, value in model.state_dict().items()}
    unused = {"res.fc.weight": torch.zeros(1000, 512), "res.fc.bias": torch.zeros(1000)}
    torch.save(state | unused, root / "official.pth")
    return root


COMMANDS = {
    "list methods": "import rich.table",
    "list experiments": "import yaml",
    "plan first_look": "import tta_bench.launch.experiments",
    "status first_look": "import pytorch_lightning",
    "report first_look": "os.rename table.md",
    "report first_look --out elsewhere": "import matplotlib",
    "data check data=folder data.root=images": "open images.npy",
    "data cache data=folder data.root=images": "open 1.png",
    "data preview data=folder data.root=images": "import matplotlib",
    "checkpoint verify official.pth": "open official.pth",
    "checkpoint import official.pth imported.ckpt --domain D": "os.rename imported.ckpt",
}


RECIPE = """
title: ours
get: here
licence: ours
coding: 0 and 1
classes: {foreground: [1]}
parts: [{domain: NORTH, images: "image/{name}.png"}]
masks: {files: "mask/{name}.png"}
"""


@both
def test_while_a_release_is_prepared_and_the_next_run_completes_it(site, tmp_path, name):
    (tmp_path / "ours.yaml").write_text(RECIPE)
    words = ["data", "prepare", "ours.yaml", str(site / "images/north"), "prepared"]
    assert_stopped(struck(tmp_path, ("os.rename 1.png", name, False), words=words, module="tta_bench.cli"), name)
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.name[0] != "."] == [], "no domain yet"
    assert not [path for path in (tmp_path / "prepared").rglob("*.png*") if path.name[0] == "."], "no half file"
    done = struck(tmp_path, words=words, module="tta_bench.cli")
    assert done.returncode == 0
    assert "NORTH: 3 images" in done.stdout


@pytest.mark.slow
@both
@pytest.mark.parametrize("command", COMMANDS)
def test_in_every_command(site, name, command):
    assert_stopped(struck(site, (COMMANDS[command], name, False), words=command.split(), module="tta_bench.cli"), name)
    assert_tidy(site)
