"""What is installed: dependencies with bounds, and a configuration that is found wherever the package lies."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import tta_bench
from tta_bench.runtime.paths import CONFIG_DIR, EXPERIMENTS_DIR

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = {"data", "logger", "method", "model", "protocol", "training"}


def _requirements():
    extras = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    return [Requirement(each) for each in (*PROJECT["dependencies"], *extras)]


@pytest.mark.parametrize("requirement", _requirements(), ids=lambda requirement: requirement.name)
def test_every_direct_dependency_has_a_lower_and_an_upper_bound(requirement):
    operators = {each.operator for each in requirement.specifier}
    assert ">=" in operators
    assert "<" in operators


def test_known_bad_versions_are_excluded():
    bounds = {requirement.name: requirement.specifier for requirement in _requirements()}
    lightning = bounds["pytorch-lightning"]
    assert not {Version("2.6.2"), Version("2.6.3")} & set(lightning.filter(map(Version, ("2.6.1", "2.6.2", "2.6.3"))))
    assert Version("1.3.0") not in bounds["hydra-core"]
    assert Version("2.13.0") not in bounds["torch"]


def test_the_extras_exist():
    assert {"ray", "submitit", "joblib", "dev"} <= set(PROJECT["optional-dependencies"])


def test_the_configuration_of_the_checkout_is_the_one_in_use():
    """Whatever an earlier install has left beside the other packages."""
    assert Path(tta_bench.__file__).parent == ROOT / "src/tta_bench"
    assert (CONFIG_DIR, EXPERIMENTS_DIR) == (ROOT / "conf", ROOT / "experiments")
    assert {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()} >= GROUPS
    assert (CONFIG_DIR / "config.yaml").is_file()
    assert (EXPERIMENTS_DIR / "first_look.yaml").is_file()


def test_an_editable_install_holds_a_path_and_no_copy_of_anything(tmp_path):
    build = pytest.importorskip("hatchling.build")
    script = f"import hatchling.build; hatchling.build.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert build
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert len(names) == 1
        assert names[0].endswith(".pth")
        assert archive.read(names[0]).decode().strip() == str(ROOT / "src")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, installed into a folder of its own without its dependencies."""
    pytest.importorskip("hatchling.build")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=300)
    return target


def _run(installed, folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_wheel_holds_the_package_with_its_configuration_and_nothing_else(installed):
    assert {path.name for path in installed.iterdir()} - {"bin"} == {
        "tta_bench",
        f"tta_bench-{PROJECT['version']}.dist-info",
    }
    for ours in ("conf", "experiments"):
        files = {path.relative_to(ROOT / ours) for path in (ROOT / ours).rglob("*.yaml")}
        assert {
            path.relative_to(installed / "tta_bench" / ours)
            for path in (installed / "tta_bench").rglob(f"{ours}/**/*.yaml")
        } == files
    sources = {path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*.py")}
    assert {path.relative_to(installed) for path in installed.rglob("*.py")} == sources


@pytest.mark.slow
def test_a_wheel_runs_from_an_empty_folder(installed, tmp_path):
    where = _run(
        installed, tmp_path, "-c", "import tta_bench.runtime.paths as p; print(p.CONFIG_DIR, p.EXPERIMENTS_DIR)"
    )
    assert where.stdout.split() == [str(installed / "tta_bench/conf"), str(installed / "tta_bench/experiments")]
    tiny = ("data.image_size=64", "data.limit=4", "training.epochs=1", "model.decoder_channels=[16,16,8,8,8]")
    done = _run(installed, tmp_path, "-m", "tta_bench", "+method=tent", "source=D", "target=A", "device=cpu", *tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results: outputs/cells/" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


@pytest.mark.slow
def test_a_wheel_finds_its_experiments(installed, tmp_path):
    shown = _run(installed, tmp_path, "-m", "tta_bench", "experiment=first_look", "--cfg", "all")
    assert shown.returncode == 0, shown.stderr
    assert "+row: first_look_01,first_look_02,first_look_03,first_look_04" in shown.stdout
    listed = _run(installed, tmp_path, "-m", "tta_bench.cli", "list", "experiments")
    assert "first_look" in listed.stdout
    assert list(tmp_path.iterdir()) == []
