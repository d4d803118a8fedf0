"""What needs no heavy library: the core no trainer or dashboard, a look at prepared images no torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKED = ("pytorch_lightning", "rich", "wandb", "albumentations")
BLOCK_IMPORTS = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def run(tmp_path):
    """Run Python without the blocked packages, in child processes too."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK_IMPORTS)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    return run


def test_the_packages_are_really_blocked(run):
    assert "wandb is blocked" in run("-c", "import wandb").stderr


def test_methods_objectives_and_models_import(run):
    code = (
        "from tta_bench.methods.base import METHODS\n"
        "from tta_bench.objectives.base import OBJECTIVES\n"
        "from tta_bench.models.placement import place\n"
        "from tta_bench.models.networks.resunet34 import ResUNet\n"
        "print(*METHODS.names(), *OBJECTIVES.names())\n"
    )
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert {"no_adapt", "bn_only", "tent", "grata", "entropy", "consistency"} <= set(result.stdout.split())


def test_data_check_of_cached_images_imports_no_torch(tmp_path):
    words = ("data", "check", "data.limit=1", "data.image_size=64", "--domains=A", f"results_root={tmp_path}")
    code = "import sys; from tta_bench.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for _ in range(2):
        command = [sys.executable, "-c", code, *words]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    assert "preparing" not in result.stdout
    assert result.stdout.endswith("False\n"), result.stdout


@pytest.mark.slow
def test_the_speed_benchmark_runs_and_counts_passes(run):
    arguments = ("--sizes", 64, "--images", 1, "--warmup", 0, "--repeat", 1, "--device", "cpu", "--threads", 1)
    result = run(ROOT / "benchmarks" / "adapt_speed.py", *arguments)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    passes = {name: (row["forwards"], row["backwards"]) for name, row in table.items()}
    assert passes == {"no_adapt": ("1", "0"), "bn_only": ("1", "0"), "tent": ("2", "1"), "grata": ("9", "2")}
    assert all(float(row[name]) > 0 for row in table.values() for name in ("ms", "plain_ms", "ratio", "peak_mib"))


@pytest.mark.slow
def test_an_unknown_method_ends_the_benchmark_with_a_sentence(run):
    arguments = ("--sizes", 64, "--images", 1, "--warmup", 0, "--methods", "grta")
    result = run(ROOT / "benchmarks" / "adapt_speed.py", *arguments)
    assert result.returncode != 0
    assert "invalid choice: 'grta'" in result.stderr
    assert "Traceback" not in result.stderr
