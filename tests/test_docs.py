"""The documentation is true: its example runs, its cards and its files exist."""

import importlib
import logging
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as library
import torch
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from PIL import Image

from tta_bench import __main__, cli
from tta_bench.adaptation.scenarios.base import SCENARIOS, scenario_of
from tta_bench.cli.list import methods_page, recipes_section
from tta_bench.data.recipes.recipe import load_recipe
from tta_bench.data.streams import StreamImage
from tta_bench.launch.catalogue import PLUGIN_GROUPS, REGISTRIES
from tta_bench.launch.check import check
from tta_bench.launch.composition import composer
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options, method_options
from tta_bench.metrics.base import METRICS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.networks.unet import UNet
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.ops.draws import ImageKey

ROOT = Path(__file__).parents[1]


def test_the_example_of_add_a_method_runs_as_printed(tmp_path, monkeypatch):
    text = (ROOT / "docs/add_a_method.md").read_text()
    code, settings = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "yaml"))
    (tmp_path / "self_training.py").write_text(code)
    (tmp_path / "self_training/conf/method").mkdir(parents=True)
    (tmp_path / "self_training/conf/method/self_training.yaml").write_text(settings)
    monkeypatch.syspath_prepend(tmp_path)
    METHODS.names()  # the built-in ones first, so that the example comes last
    try:
        importlib.import_module("self_training")
        torch.manual_seed(0)
        method = METHODS.get("self_training")(AdaptableNetwork(UNet("resnet18", 2, decoder_channels=(16, 16, 8, 8, 8))))
        method.start(2)
        result = method.step(torch.rand(2, 3, 64, 64), [ImageKey(0, "A", "1"), ImageKey(0, "B", "1")])
        assert vars(method.options) == {k: v for k, v in yaml.safe_load(settings).items() if k != "name"}
        assert result.logits.shape == (2, 2, 64, 64)
        assert result.diagnostics["skipped"] == [False, False]
        assert (method.network.forwards, method.backwards) == (method.card.forwards, method.card.backwards)
    finally:
        METHODS._items.pop("self_training", None)
        ConfigStore.instance().repo["method"].pop("self_training.yaml", None)


def test_the_examples_of_use_your_network_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/use_your_network.md").read_text(), re.DOTALL):
        exec(compile(code, "docs/use_your_network.md", "exec"), {"__name__": "example"})
    assert (tmp_path / "state.pt").is_file()


def test_the_commands_of_import_a_checkpoint_work_as_printed(tmp_path, monkeypatch, capsys):
    (commands,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/import_a_checkpoint.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    network = library.FPN("resnet18", encoder_weights=None, classes=2)
    torch.save(
        {"model": {f"module.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "best.pth"
    )
    for domain in ("Site1", "Site2"):
        for kind, channels in (("image", 3), ("mask", 1)):
            (tmp_path / "DIR" / domain / kind).mkdir(parents=True)
            pixels = np.random.default_rng(0).integers(0, 256 if kind == "image" else 3, (64, 64, channels), np.uint8)
            Image.fromarray(pixels.squeeze()).save(tmp_path / "DIR" / domain / kind / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("tta_bench"), "level", logging.NOTSET)  # restored afterwards
    for left in [each for each in logging.root.handlers if type(each) is logging.StreamHandler]:
        logging.root.removeHandler(left)  # of a program that another test has run here, to a stream that is closed
    programs = {("tta-bench",): cli.main, ("python", "-m", "tta_bench"): __main__.main}
    for words in map(shlex.split, commands.replace("\\\n", " ").splitlines()):
        ((name, program),) = ((name, each) for name, each in programs.items() if tuple(words[: len(name)]) == name)
        monkeypatch.setattr(sys, "argv", ["it", *words[len(name) :]])
        program()
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "FPN" in printed.out
    assert len([*(tmp_path / "outputs/cells").glob("*/summary.json")]) == 2, "the method and no_adapt"


def test_the_objective_of_add_a_method_works_as_printed(tmp_path, monkeypatch, small_net, images):
    _, code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/add_a_method.md").read_text(), re.DOTALL)
    (tmp_path / "impurity.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    OBJECTIVES.names()  # the built-in ones first, so that the example comes last
    try:
        importlib.import_module("impurity")
        options = default_options("grata", auxiliary="impurity")
        method = METHODS.get("grata")(AdaptableNetwork(small_net, METHODS.get("grata").branches(options)), options)
        method.start(2)
        diagnostics = method.step(images[:2], [ImageKey(0, "A", "1"), ImageKey(0, "B", "1")]).diagnostics
        assert all(0 < loss <= 0.25 for loss in diagnostics["loss_auxiliary"])
        assert diagnostics["skipped"] == [False, False]
    finally:
        OBJECTIVES._items.pop("impurity", None)


def test_the_scenario_of_add_a_method_works_as_printed(tmp_path, monkeypatch):
    *_, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/add_a_method.md").read_text(), re.DOTALL)
    (tmp_path / "alternating.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    SCENARIOS.names()  # the built-in ones first, so that the example comes last
    try:
        importlib.import_module("alternating")
        (config,) = check(["+method=tent", "source=D", "protocol.reset=alternating"])
        passes = [tuple(StreamImage(name, k, k) for k in range(n)) for name, n in (("A", 1), ("B", 2))]
        (stream,) = scenario_of(config.protocol.reset).streams(passes)
        assert [(place.domain, place.index) for place in stream] == [("A", 0), ("B", 0), ("B", 1)]
    finally:
        SCENARIOS._items.pop("alternating", None)


@pytest.mark.parametrize("registry", REGISTRIES)
def test_the_house_says_where_each_registered_thing_goes(registry):
    text = (ROOT / "docs/architecture.md").read_text()
    folder, decorator = REGISTRIES[registry][:2]
    (row,) = (line.split(" | ") for line in text.splitlines() if f"`@{decorator}(" in line)
    assert row[0] == f"| {registry.removesuffix('s').replace('_', ' ')}"
    assert row[1].startswith(f"`{folder}/NAME.py`")
    group = re.match(r"`conf/(\w+)/NAME.yaml`", row[2])
    assert ({group[1]: registry} if group else {}) == {key: of for key, of in PLUGIN_GROUPS.items() if of == registry}
    assert f"`{registry}`" in text or f"`tta_bench.{registry}`" in text


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_has_a_yaml_with_its_defaults_and_a_card(name):
    with composer() as hydra:
        settings = OmegaConf.to_container(hydra.compose([f"+method={name}"]).method, resolve=True)
    assert settings["name"] == name
    assert method_options(settings) == default_options(name)
    assert (ROOT / f"docs/methods/{name}.md").read_text().startswith(f"# `{name}`")


def test_the_table_of_metrics_is_that_of_the_registry():
    page = (ROOT / "docs/metrics.md").read_text()
    table = {row[0]: row[2:] for row in re.findall(r"^\| `(\w+)` \|(.*?)\|(.*?)\|(.*?)\|(.*?)\|(.*?)\|$", page, re.M)}
    built_in = [METRICS.get(name) for name in METRICS.names() if _is_built_in(METRICS.get(name))]
    assert list(table) == [metric.name for metric in built_in]
    for metric in built_in:
        low, high = metric.range
        facts = (metric.unit, metric.direction, f"{low} to {high}", metric.of)
        assert tuple(map(str.strip, table[metric.name])) == facts, metric.name


def _is_built_in(metric):
    return metric.function.__module__.startswith("tta_bench.")


def test_the_table_of_methods_is_that_of_the_classes():
    assert (ROOT / "docs/methods/README.md").read_text() == methods_page()


def test_the_page_on_releases_is_that_of_the_recipes_and_its_example_is_one(tmp_path):
    page = (ROOT / "docs/prepare_data.md").read_text()
    assert recipes_section() in page, "tta-bench list recipes --markdown"
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]
    other = example.split("masks:", 1)[0] + example[example.index("# masks:") :].replace("\n# ", "\n")[2:]
    for text in (example, other):
        (tmp_path / "my_recipe.yaml").write_text(text)
        assert load_recipe(str(tmp_path / "my_recipe.yaml")).expected == {"north": 120}


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]
)
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text()):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_page_is_in_the_navigation_of_the_site():
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    patterns = re.findall(r"[\w/*]+\.md", str(site["nav"]))
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if not any(page.match(pattern) for pattern in patterns)] == []
