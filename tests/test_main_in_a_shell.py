"""``python -m tta_bench`` in a process of its own: what a shell sees, and what is in the folder afterwards."""

import os
import re
import subprocess
import sys

import pytest

import forked
from test_main import TINY
from tta_bench.methods.base import METHODS


def type_in_shell(folder, *words, **environment):
    """The program in a process of its own, its output not a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "tta_bench", *words],
        cwd=folder,
        env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_tiny_run_prints_its_table_and_writes_into_the_results_folder_alone(tmp_path):
    done = type_in_shell(tmp_path, "+method=grata", "target=A,C", *TINY)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.rstrip("\n").split("\n")
    assert re.search(r"Dice in percent, source D, seed 0", done.stdout)
    assert re.search(r"^target +n +method +disc +cup +mean +\[95 % interval\] +image$", done.stdout, re.MULTILINE)
    number, signed = r"\d+\.\d\d", r"[+-]\d+\.\d\d"
    for target, n in (("A", 4), ("C", 4), ("mean", 8)):
        reference = next(line for line in lines if re.match(rf"{target} +{n} +no_adapt", line))
        assert re.search(rf"no_adapt( +{number}){{3}} +\d+\.\d{{3}}$", reference.rstrip())
        compared = lines[lines.index(reference) + 1].rstrip()
        assert re.fullmatch(rf" +grata( +{number}){{3}} +{signed} \[{signed}, {signed}\] +\d+\.\d{{3}}", compared), (
            compared
        )
    found = re.fullmatch(r"results: (outputs/cells/[0-9a-f]{16})", lines[-1])
    assert (tmp_path / found[1] / "per_image.csv").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"cells", "data", "source_models"}
    assert max(map(len, lines[lines.index(next(x for x in lines if "Dice in percent" in x)) : -1])) <= 80
    assert "25 normalisation layers (25 BatchNorm2d); 2,304 affine scalars" in done.stdout
    after_training = done.stdout.split("in-domain Dice", 1)[1]
    assert "━━" not in after_training, "no bar where nobody watches"
    assert "\x1b[" not in done.stdout


def test_without_a_method_one_sentence_lists_them(tmp_path):
    done = forked.run("-m", "tta_bench", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no method is chosen: add +method=NAME, choose one of: ")
    assert done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in METHODS.names())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_wandb_offline_keeps_one_finished_run_per_cell_in_the_cells_folder(tmp_path):
    words = ["-m", "+method=tent", "target=A,C", "seed=0,1", "logger=wandb", "logger.wandb.mode=offline", *TINY]
    done = type_in_shell(tmp_path, *words, WANDB_DIR=str(tmp_path / "elsewhere"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wandb" not in (done.stdout + done.stderr).lower().replace("logger=wandb", "")
    cells = list((tmp_path / "outputs/cells").iterdir())
    assert len(cells) == 2, "TENT and its reference draw nothing: one cell for both seeds"
    for cell in cells:
        (run,) = (cell / "wandb").glob("offline-run-*")
        assert run.name.endswith(cell.name), "the run's id is the cell's hash"
        assert list(run.glob("run-*.wandb"))
    again = type_in_shell(tmp_path, *words)
    assert again.returncode == 0
    assert all(len(list((cell / "wandb").glob("offline-run-*"))) == 1 for cell in cells), "sent once"
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


@pytest.mark.slow
def test_wandb_is_also_given_a_cell_that_was_finished_without_it(tmp_path):
    assert type_in_shell(tmp_path, "+method=no_adapt", "target=A", *TINY).returncode == 0
    assert not list(tmp_path.glob("outputs/cells/*/wandb"))
    more = ("logger=wandb", "logger.wandb.mode=offline")
    assert type_in_shell(tmp_path, "+method=no_adapt", "target=A", *more, *TINY).returncode == 0
    assert len(list(tmp_path.glob("outputs/cells/*/wandb/offline-run-*"))) == 1
    home = {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "none"), "WANDB_API_KEY": ""}  # nobody logged in
    online = type_in_shell(tmp_path, "+method=no_adapt", "target=A", "logger=wandb", *TINY, **home)
    assert online.returncode == 0
    assert "results: outputs/cells/" in online.stdout
    assert online.stderr.startswith("warning: W&B did not take the results of 1 finished run ("), "once sent offline"
    assert "Traceback" not in online.stdout + online.stderr


@pytest.mark.slow
def test_processes_of_a_joblib_sweep_report_their_failures(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "+method=no_adapt,tent", "target=A", *TINY]
    assert type_in_shell(tmp_path, *words).returncode == 0
    (tmp_path / "outputs/cells").rename(tmp_path / "outputs/kept")
    (tmp_path / "outputs/cells").touch()
    assert type_in_shell(tmp_path, *words).returncode != 0
