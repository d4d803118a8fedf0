"""A method in a package of its own appears after installing it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples/my_tta_method"
TINY = ["data.image_size=64", "data.limit=4", "training.epochs=1", "model.decoder_channels=[16,16,8,8,8]"]


def run(folder, *arguments, module="tta_bench"):
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def install(source, folder):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", source], check=True, capture_output=True)


@pytest.fixture
def example(tmp_path):
    """A copy to change: installing leaves nothing in the checkout."""
    copy = tmp_path / "source"
    for path in EXAMPLE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            (copy / path.relative_to(EXAMPLE)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(EXAMPLE)).write_text(path.read_text())
    return copy


def test_the_example_is_short():
    files = [path for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".yaml", ".toml"}]
    assert sum(len(path.read_text().splitlines()) for path in files) < 80


@pytest.mark.slow
def test_the_example_runs_after_installing_it(example, tmp_path):
    install(example, tmp_path)
    listed = run(tmp_path, "list", "methods", module="tta_bench.cli")
    assert "uncertain_entropy" in listed.stdout
    ran = run(tmp_path, "+method=uncertain_entropy", "source=D", "target=A", *TINY, "method.fraction=0.2")
    assert ran.returncode == 0, ran.stderr
    assert "uncertain_entropy" in ran.stdout
    typo = run(tmp_path, "+method=uncertain_entropy", "method.fracton=0.2", *TINY)
    assert typo.returncode == 2
    assert "did you mean 'method.fraction'" in typo.stderr


@pytest.mark.slow
def test_a_broken_plugin_is_named_and_does_not_disturb(example, tmp_path):
    (example / "my_tta_method/__init__.py").write_text("import no_such_package\n")
    install(example, tmp_path)
    listed = run(tmp_path, "list", "methods", module="tta_bench.cli")
    assert "no_such_package" in listed.stdout
    assert "grata" in listed.stdout
    chosen = run(tmp_path, "+method=uncertain_entropy", *TINY)
    assert chosen.returncode == 2
    assert "no_such_package" in chosen.stderr
    other = run(tmp_path, "+method=bn_only", "target=A", *TINY)
    assert other.returncode == 0, other.stderr


@pytest.mark.slow
def test_a_plugin_cannot_take_the_name_of_a_built_in_method(example, tmp_path):
    (example / "my_tta_method/conf/method/uncertain_entropy.yaml").rename(
        example / "my_tta_method/conf/method/tent.yaml"
    )
    install(example, tmp_path)
    ran = run(tmp_path, "+method=tent", *TINY)
    assert ran.returncode == 2
    assert "rename it" in ran.stderr
