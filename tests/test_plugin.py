"""What a package of one's own brings, a method, a metric, a reader and a network, is there after installing it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/my_tta_method"
TINY = ["data.image_size=64", "data.limit=3", "training.epochs=1"]
SMALL = [*TINY, "model.encoder=tu-test_resnet", "model.decoder_channels=[16,16,8,8,8]"]
OWN = ["data=my_reader", "data.root=images", "model=my_network"]


def run(folder, *arguments, module="tta_bench"):
    path = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *(("-X", "importtime") if "list" in arguments else ()), "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


def install(source, folder):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", source], check=True, capture_output=True)


def copied(folder):
    """A copy of the example to install from, and to change: installing leaves nothing in the checkout."""
    for path in EXAMPLE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            (folder / path.relative_to(EXAMPLE)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(EXAMPLE)).write_text(path.read_text())
    return folder


@pytest.fixture
def example(tmp_path):
    """A copy to change."""
    return copied(tmp_path / "source")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the example installed, arrays of three sites, and the results of the documented commands."""
    folder = tmp_path_factory.mktemp("workplace")
    install(copied(folder / "source"), folder)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :72]
    for site in ("North", "South", "West"):
        (folder / "images" / site).mkdir(parents=True)
        for number in range(4):
            mask = (np.hypot(y - 40 - 3 * number, x - 36) < 20).astype(np.uint8)
            image = (rng.integers(0, 100, (80, 72, 3)) + 100 * mask[..., None]).astype(np.uint8)
            np.savez(folder / f"images/{site}/{number}.npz", image=image, mask=mask)
    return folder


@pytest.fixture(scope="module")
def documented(workplace):
    """What each command of the documentation ended with, by its first words."""
    page = (ROOT / "docs/add_a_method.md").read_text()
    block = re.search(r"```\n(pip install examples.*?)```", page, re.DOTALL)[1]
    ended = {}
    for line in block.replace("DIR", "images").splitlines()[1:]:
        program, *words = shlex.split(line)
        if program == "python":
            ended["run"] = run(workplace, *words[2:], *TINY)
        else:
            words = [part for word in words for part in ([*TINY, word] if word.startswith("data=") else [word])]
            ended[words[0]] = run(workplace, *words, module="tta_bench.cli")
    return ended


@pytest.mark.parametrize("path", [path for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".yaml", ".toml"}])
def test_every_file_of_the_example_is_short(path):
    assert len(path.read_text().splitlines()) < 90


@pytest.mark.parametrize(
    ("what", "name", "words"),
    [
        ("methods", "uncertain_entropy", "affine"),
        ("metrics", "areaerror", "Difference of the areas"),
        ("readers", "my_reader", "Arrays of an image and its mask"),
        ("networks", "my_network", "A U-Net"),
        ("data", "my_reader", "Arrays of your own"),
    ],
)
def test_the_example_is_listed_without_torch(workplace, what, name, words):
    listed = run(workplace, "list", what, name, module="tta_bench.cli")
    assert listed.returncode == 0, listed.stderr
    assert words in next(line for line in listed.stdout.splitlines() if line.startswith(name))
    imported = {line.rpartition("|")[2].strip() for line in listed.stderr.splitlines()}
    assert "tta_bench.launch.catalogue" in imported
    assert not [module for module in imported if module.partition(".")[0] in ("torch", "my_tta_method")]


def test_the_options_of_the_example_are_those_of_its_file(workplace):
    code = "from tta_bench.methods.options import default_options as d; print(d('uncertain_entropy', momentum=0.5))"
    path = os.pathsep.join([str(workplace / "site"), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    options = "learning_rate=0.0001, optimizer='adam', momentum=0.5, nesterov=False, fraction=0.1"
    assert told.stdout == f"UncertainEntropyOptions({options})\n", told.stderr


@pytest.mark.slow
def test_the_documented_commands_run(documented, workplace):
    assert {words: ended.returncode for words, ended in documented.items()} == dict.fromkeys(
        ("list", "run", "report"), 0
    ), [ended.stderr for ended in documented.values()]
    assert "uncertain_entropy" in documented["run"].stdout
    assert len(list(workplace.glob("outputs/cells/*/summary.json"))) == 2 * 3  # sources; two methods and no_adapt
    header = next(workplace.glob("outputs/cells/*/per_image.csv")).read_text().splitlines()[0]
    assert {"dice_foreground", "areaerror_foreground"} <= set(header.split(","))
    assert "area error in percent" in documented["report"].stdout


@pytest.mark.slow
def test_a_checkpoint_of_the_network_is_read(documented, workplace):
    paths = sorted(workplace.glob("outputs/source_models/*/model.ckpt"))
    assert len(paths) == 2
    verified = run(workplace, "checkpoint", "verify", str(paths[0]), module="tta_bench.cli")
    assert verified.returncode == 0, verified.stderr
    assert re.search(r"^network: +my_network, width 16$", verified.stdout, re.MULTILINE)


@pytest.mark.slow
def test_bare_weights_of_the_network_are_imported_and_adapted(workplace):
    network = "from my_tta_method.my_network import MyNetwork as N"
    code = f"import torch; {network}; torch.save(N(16, 1, ()).state_dict(), 'w.pth')"
    path = os.pathsep.join([str(workplace / "site"), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], cwd=workplace, env={**os.environ, "PYTHONPATH": path}, check=True)
    sizes = ["data.classes={foreground: [1]}", "data.image_size=64", "preprocessing=unit"]
    words = ["checkpoint", "import", "w.pth", "mine.ckpt", "model=my_network", *sizes, "--domain", "North"]
    imported = run(workplace, *words, module="tta_bench.cli")
    assert imported.returncode == 0, imported.stderr
    adapted = ["+method=grata", "source=North", "target=West", "checkpoint=mine.ckpt", "data.image_size=64"]
    ran = run(workplace, *adapted, *OWN, "results_root=imported")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_the_network_learns_a_pretext_task(workplace):
    grata = ["+method=grata", "source=North", "target=West", "model.branches=[denoising]"]
    ran = run(workplace, *grata, *OWN, *TINY, "results_root=branches")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (
            ["+method=uncertan_entropy", *OWN, "source=Nort", "metrics=[areaeror]"],
            [
                "method=uncertan_entropy: did you mean 'uncertain_entropy'?",
                "source=Nort: did you mean 'North'?",
                "metrics=areaeror: did you mean 'areaerror'?",
            ],
        ),
        (
            ["+method=uncertain_entropy", "model=my_netwrk", "data=my_readr", "method.fracton=0.2"],
            [
                "model=my_netwrk: did you mean 'my_network'?",
                "data=my_readr: did you mean 'my_reader'?",
                "did you mean 'method.fraction'",
            ],
        ),
        (
            ["+method=uncertain_entropy", *OWN, "source=North", "model.options.widht=8"],
            ["did you mean 'model.options.width'?"],
        ),
        (
            ["+method=uncertain_entropy", *OWN, "source=North", "model.options.width=0"],
            ["model.options.width=0: give a whole number, at least 1"],
        ),
        (["+method=bn_only", *OWN[::2], "source=North"], ["data=my_reader needs the folder of the images"]),
    ],
)
def test_typos_in_what_the_example_brings_are_named(workplace, words, sentences):
    refused = run(workplace, *words)
    assert refused.returncode == 2, refused.stderr
    for sentence in sentences:
        assert sentence in refused.stderr


@pytest.mark.slow
def test_a_broken_plugin_is_named_and_does_not_disturb(example, tmp_path):
    (example / "my_tta_method/uncertain_entropy.py").write_text("import no_such_package\n")
    install(example, tmp_path)
    listed = run(tmp_path, "list", "methods", module="tta_bench.cli")
    assert "no_such_package" in listed.stdout
    assert "grata" in listed.stdout
    chosen = run(tmp_path, "+method=uncertain_entropy", *SMALL)
    assert chosen.returncode == 2
    assert "no_such_package" in chosen.stderr
    other = run(tmp_path, "+method=bn_only", "target=A", *SMALL)
    assert other.returncode == 0, other.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "own", "built_in"),
    [("method", "uncertain_entropy", "tent"), ("data", "my_reader", "folder"), ("model", "my_network", "unet")],
)
def test_a_plugin_cannot_take_the_name_of_what_is_built_in(example, tmp_path, group, own, built_in):
    folder = example / "my_tta_method/conf" / group
    (folder / f"{own}.yaml").rename(folder / f"{built_in}.yaml")
    install(example, tmp_path)
    ran = run(tmp_path, "+method=tent", *SMALL)
    assert ran.returncode == 2
    assert f"{group}={built_in}, which exists: rename it" in ran.stderr


SINK = """
from tta_bench import register_sink
from tta_bench.sinks.base import Run, SinkOptions


class Options(SinkOptions):
    path: str


@register_sink("lines", "A file", Options)
class Lines(Run):
    \"\"\"A line per cell.\"\"\"
"""


def test_a_sink_of_a_package_is_chosen_by_its_file(tmp_path):
    package, metadata = tmp_path / "site/my_sink", tmp_path / "site/my_sink-1.0.dist-info"
    for folder in (package / "conf/logger", metadata):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text(SINK)
    (package / "conf/logger/lines.yaml").write_text("path: lines.txt\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sink\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tta_bench.sinks]\nmy_sink = my_sink\n")
    assert "A line per cell." in run(tmp_path, "list", "sinks", module="tta_bench.cli").stdout
    refused = run(tmp_path, "+method=bn_only", "logger=lines", "logger.lines.pth=a.txt", "seed=-1")
    assert refused.returncode == 2
    assert "did you mean 'logger.lines.path'?" in refused.stderr
