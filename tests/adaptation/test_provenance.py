"""What makes finished numbers stale: a change of the code that decides them, and nothing else."""

import copy
import functools
from dataclasses import asdict
from pathlib import Path

import pytest

from called import PACKAGE, covered, ran
from tta_bench.adaptation import provenance
from tta_bench.adaptation.linking import Definition, Sources
from tta_bench.adaptation.provenance import ACCOMPANIES, ROOTS, change_since, code_of
from tta_bench.launch.check import check
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey

GRATA, TENT, NO_ADAPT = "+method=grata", "+method=tent", "+method=no_adapt"
RESUNET = "+method=grata model=resunet34"
ROTATION = "+method=grata method.pseudo=rotation model.branches=[rotation]"
DENOISING = "+method=grata method.pseudo=denoising model.branches=[denoising]"
DETTA = "+method=detta model.branches=[denoising]"
EPISODIC, CONTINUAL = "+method=grata protocol.reset=image", "+method=grata protocol.reset=never"
ROUTED = "+method=grata source=D route=[A]"
EMPIRICAL = "+method=grata diagnostics.empirical_gradient=true"


@functools.cache
def configure(words):
    (config,) = check(words.split(), multirun=False)
    return config


@functools.cache
def sources():
    """All files of the package, read and parsed once for all changes of one of them."""
    package = Sources({"tta_bench": PACKAGE}, ACCOMPANIES)
    for module in package._contents:
        package.statements(module)
    return package


@pytest.fixture
def changed(monkeypatch):
    """Change a file of the package, in memory, and get the modules that a cell calls changed since."""

    def changed(path, old, new, words):
        config = configure(words)
        before = code_of(config)
        module = ".".join(("tta_bench", *Path(path).with_suffix("").parts))
        text = (PACKAGE / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        edited = copy.copy(sources())
        edited._contents = edited._contents | {module: text.replace(old, new).encode()}
        edited._parsed = {name: parsed for name, parsed in edited._parsed.items() if name != module}
        with monkeypatch.context() as patch:
            patch.setattr(provenance, "_sources", lambda tops: edited)
            patch.setattr(provenance, "_reached", provenance._reached.__wrapped__)
            clause = change_since(before, config)
        return [] if clause is None else clause.removeprefix("the code of ").removesuffix(" changed since").split(", ")

    return changed


@pytest.mark.parametrize(
    ("path", "old", "new", "stale", "fresh"),
    [
        ("methods/tent.py", "self.each(", "2 * self.each(", [TENT], [GRATA]),
        ("methods/grata.py", "(cosine + 1).square() / 4", "(cosine + 1).square() / 3", [GRATA], [TENT]),
        ("methods/base.py", "torch.ones_like(losses)", "torch.zeros_like(losses)", [GRATA, TENT, NO_ADAPT], []),
        ("methods/state.py", "def step(", "def stride(", [GRATA, TENT], []),
        ("objectives/rotation.py", "cross_entropy(", "nll_loss(", [ROTATION], [GRATA, TENT]),
        ("objectives/consistency.py", ".mean(dim=1)", ".amax(dim=1)", [GRATA], [ROTATION, TENT, "+method=cotta"]),
        ("ops/probabilities.py", "logits * target", "target", [GRATA, "+method=cotta"], [NO_ADAPT, "+method=dua"]),
        ("objectives/denoising.py", "noise_std * noise", "2 * noise_std * noise", [DENOISING], [GRATA, TENT]),
        ("objectives/rotation.py", "nn.LeakyReLU(0.2)", "nn.LeakyReLU(0.1)", [ROTATION], [GRATA, TENT]),
        (
            "models/branches.py",
            "F.relu(self.conv",
            "F.elu(self.conv",
            ["+method=detta model.branches=[denoising]"],
            [TENT],
        ),
        ("ops/views.py", "def undo_weak_views(", "def redo_weak_views(", [GRATA, "+method=cotta"], [TENT]),
        ("ops/gradients.py", "def pcgrad(", "def pcgrad(eps=0, *, ", ["+method=pcgrad"], [GRATA, TENT]),
        (
            "models/normalisation.py",
            "training=True, eps=layer.eps",
            "training=True, eps=0",
            [GRATA, "+method=bn_only"],
            [],
        ),
        ("models/networks/unet.py", "kernel_size=3", "kernel_size=1", [GRATA], [RESUNET]),
        ("models/networks/resunet34.py", "kernel_size=1", "kernel_size=3", [RESUNET], [GRATA]),
        ("ops/preprocessing.py", "span == 0", "span == 1", [GRATA, NO_ADAPT], []),
        ("metrics/dice.py", "return", "return 2 *", [GRATA, NO_ADAPT], []),
        ("ops/probabilities.py", ">= threshold", "> threshold", [GRATA, NO_ADAPT], []),
        ("records/scores.py", "sum(known) / len(known)", "max(known)", [GRATA, NO_ADAPT], []),
        ("adaptation/scenarios/online.py", "list(passes)", "list(passes)[::-1]", [GRATA, EPISODIC], [CONTINUAL]),
        ("adaptation/scenarios/episodic.py", "episodic = True", "episodic = False", [EPISODIC], [GRATA, CONTINUAL]),
        ("adaptation/empirical_gradient.py", "gradient_cosine(", "2 * gradient_cosine(", [EMPIRICAL], [GRATA]),
        ("offline/routing.py", "argmin(1)", "argmax(1)", [ROUTED], [GRATA]),
        ("ops/gaussians.py", "torch.linalg.inv(", "torch.linalg.pinv(", [ROUTED], [GRATA]),
        ("models/first_features.py", "mean(2)", "amax(2)", [ROUTED], [GRATA]),
    ],
)
def test_a_change_makes_those_cells_stale_whose_numbers_it_decides(changed, path, old, new, stale, fresh):
    module = ".".join(("tta_bench", *Path(path).with_suffix("").parts))
    assert {words: changed(path, old, new, words) for words in stale} == {words: [module] for words in stale}
    assert {words: changed(path, old, new, words) for words in fresh} == {words: [] for words in fresh}


GRATA_FILE = "methods/grata.py"


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (GRATA_FILE, '"""The pseudo gradient', '"""Said otherwise: the pseudo gradient'),
        (GRATA_FILE, "    def adapt(", "    # said\n\n    def adapt("),
        (GRATA_FILE, "images: Tensor, draws: Draws) -> Diagnostics", "images, draws: 'Draws')"),
        (GRATA_FILE, "cosine = gradient", "cosine: Tensor = gradient"),
        (GRATA_FILE, "import torch\n", "import sys\n\nimport torch\n"),
        (GRATA_FILE, 'paper="Chen et al., AAAI 2025"', 'paper="Chen and others"'),
        (GRATA_FILE, "(auxiliary_gradient, pseudo_gradient)", "(\n    auxiliary_gradient,\n    (pseudo_gradient),\n)"),
        (GRATA_FILE, '"loss_auxiliary"', "'loss_auxiliary'"),
        ("adaptation/scenarios/online.py", 'sentence = "The', 'sentence = "A'),
        ("methods/base.py", "text = f", "words = text = f"),
        *(
            (path, "def ", "def other_")
            for path in (
                *(
                    "sinks/wandb.py",
                    "sinks/delivery.py",
                    "report/write.py",
                    "report/tables.py",
                    "records/store.py",
                ),
                *("schema.py", "__main__.py", "launch/check.py", "source/train.py", "source/augmentation.py"),
                *(
                    "records/snapshots.py",
                    "records/rescoring.py",
                    "metrics/iou.py",
                    "data/readers/folder.py",
                    "data/synthetic/render.py",
                    "methods/medbn.py",
                    "runtime/memory.py",
                ),
            )
        ),
        ("cell.py", "def finish(", "def finish_it("),
    ],
)
def test_what_decides_no_number_makes_nothing_stale(changed, path, old, new):
    assert [changed(path, old, new, words) for words in (GRATA, EMPIRICAL, NO_ADAPT)] == [[], [], []]


def test_cells_from_before_digests_are_of_unknown_code():
    assert change_since({"dice": 50.0}, configure(TENT)) == "it is not known which code made it"


@pytest.mark.parametrize("name", METHODS.names())
def test_all_that_runs_when_a_method_adapts_counts(small_net, images, monkeypatch, name):
    config = configure(NO_ADAPT).model_copy(update={"method": {"name": name, **asdict(default_options(name))}})
    options = default_options(name)
    network = AdaptableNetwork(small_net, METHODS.get(name).branches(options))

    def adapt():
        method = METHODS.get(name)(network, options)
        method.start(2)
        for index in range(2):
            method.step(images[[index, index + 2]], [ImageKey(0, domain, f"{index}") for domain in "AB"])

    missed = {each for each in ran(adapt) - covered(config, monkeypatch) if each.name != "<lambda>"}
    assert not missed


def test_the_roots_exist():
    for definition in (*ROOTS, *ACCOMPANIES):
        names = {name for each in sources().statements(definition.module) for name in each.binds}
        assert definition.name is None or definition.name in names, definition


def test_of_a_plugin_the_whole_package_counts_and_what_it_uses_of_this_one(tmp_path):
    plugin = tmp_path / "my_plugin"
    plugin.mkdir()
    files = {
        "__init__.py": "from .method import Mine\n",
        "method.py": "from tta_bench.ops.gradients import pcgrad\n\nclass Mine:\n    adapt = pcgrad\n",
        "_table.py": "WEIGHTS = [1, 2]\n",
        "template.py": "class {{name}}:",
    }

    def digests(**changed):
        for name, text in (files | {f"{name}.py": text for name, text in changed.items()}).items():
            (plugin / name).write_text(text)
        return Sources({"my_plugin": plugin, "tta_bench": PACKAGE}, ACCOMPANIES).digests(
            [Definition("my_plugin.method", "Mine")], {}
        )

    before = digests()
    assert set(before) == {"my_plugin", "my_plugin.method", "my_plugin._table", "my_plugin.template"} | {
        "tta_bench.ops.gradients"
    }
    assert digests(method=files["method.py"].replace("class", "# said\nclass")) == before
    for name in ("_table", "template"):
        after = digests(**{name: files[f"{name}.py"] + "\nMORE = 1\n"})
        assert {each for each in after if after[each] != before[each]} == {f"my_plugin.{name}"}
