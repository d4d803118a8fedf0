"""Every default stands in one file, and what the files compose to identifies the cells that it always did."""

import hashlib
import inspect
import json
from collections import defaultdict
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import yaml
from omegaconf import OmegaConf
from pydantic_core import PydanticUndefined

from tta_bench.cell import Cell
from tta_bench.errors import UserError
from tta_bench.launch.check import find_jobs
from tta_bench.launch.composition import composer
from tta_bench.launch.experiments import plan
from tta_bench.methods.base import METHODS, MethodOptions, register_method
from tta_bench.methods.options import PRESETS, default_options, identified_method, method_options
from tta_bench.methods.two_objectives import TwoObjectivesOptions
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.ops.views import Operation
from tta_bench.records.store import cell_hash
from tta_bench.runtime.paths import CONFIG_DIR, EXPERIMENTS_DIR
from tta_bench.schema import RunConfig
from tta_bench.sinks.base import SINKS

LARGEST = 3
"""Values of a block that may stand twice: what a class of masks is, the probability and range of one operation."""

HASHES = json.loads(Path(__file__).with_name("cell_hashes.json").read_text())
"""Experiment or method -> digest of the hashes of its cells; a change of one would orphan finished results."""


def blocks(content):
    """Every mapping and list below ``content``, with the number of values in it."""
    if not isinstance(content, dict | list):
        return 1, []
    parts = [blocks(part) for part in (content.values() if isinstance(content, dict) else content)]
    size = sum(number for number, _ in parts)
    return size, [(size, json.dumps(content, sort_keys=True)), *(block for _, below in parts for block in below)]


def test_no_block_of_defaults_stands_twice():
    places = defaultdict(list)
    for folder in (CONFIG_DIR, EXPERIMENTS_DIR):
        for path in sorted(folder.rglob("*.yaml")):
            for size, text in blocks(yaml.safe_load(path.read_text()))[1]:
                if size > LARGEST:
                    places[text].append(path.name)
    # Rows of experiments set what they are about, not defaults.
    twice = {text: names for text, names in places.items() if len(names) > 1 and '"method"' not in text}
    assert not twice, "share it as a file of conf/shared/"


def options_of(kind, path):
    """Every field of an options class or section, dotted, with whether it has a value where it is left out."""
    hints = get_type_hints(kind)
    if hasattr(kind, "model_fields"):
        named = [(name, field.get_default(call_default_factory=True)) for name, field in kind.model_fields.items()]
    else:
        # What came later has the value that old configurations mean: no default of new ones.
        named = [(each.name, None if "later" in each.metadata else each.default) for each in fields(kind)]
    for name, value in named:
        yield f"{path}.{name}", value not in (PydanticUndefined, MISSING, None, (), {})
        for part in (hints[name], *get_args(hints[name])):
            if is_dataclass(part) or hasattr(part, "model_fields"):
                yield from options_of(part, f"{path}.{name}")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", RunConfig),
        *((f"method={name}", METHODS.get(name).Options) for name in METHODS.names()),
        *((f"logger={name}", SINKS.get(name).options) for name in SINKS.names()),
    ],
)
def test_no_default_of_the_files_stands_in_a_class_too(path, kind):
    """Classes state types and ranges; a key that may be left out is None or empty then."""
    stated = dict(options_of(kind, path))
    assert len(stated) >= len(get_type_hints(kind)) - 1  # without what configures pydantic
    assert [key for key, has_value in stated.items() if has_value] == []


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_no_objective_has_a_default_for_an_option_of_methods(name):
    options = {field.name for field in fields(TwoObjectivesOptions)}
    parameters = inspect.signature(OBJECTIVES.get(name)).parameters.values()
    assert [each.name for each in parameters if each.name in options and each.default is not each.empty] == []


def test_default_options_are_those_of_the_command_line():
    with composer() as hydra:
        for name in METHODS.names():
            section = hydra.compose([f"+method={name}"]).method
            for preset in PRESETS:
                OmegaConf.update(section, "preset", preset, force_add=True)
                composed = method_options(OmegaConf.to_container(section, resolve=True))
                assert default_options(name, preset=preset) == composed
    assert METHODS.get("cotta")(SimpleNamespace(), None).options == default_options("cotta")


def test_an_unknown_option_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match=r"unknown key 'method.learning_rat': did you mean 'method.learning_rate'"):
        default_options("tent", learning_rat=1e-3)
    noise = {"p": 1.0, "range": [0.0, 0.1]}
    strong = default_options("grata", strong_augmentation={"noise": noise}).strong_augmentation
    assert strong == replace(default_options("grata").strong_augmentation, noise=Operation(1.0, (0.0, 0.1)))


def test_a_method_without_a_file_has_the_defaults_of_its_class():
    @dataclass(frozen=True)
    class Options(MethodOptions):
        momentum: float = 0.5

    @register_method("fileless")
    class Fileless(METHODS.get("bn_only")):
        pass

    Fileless.Options = Options
    try:
        assert default_options("fileless") == Options()
        assert default_options("fileless", momentum=0.1) == Options(0.1)
    finally:
        METHODS._items.pop("fileless")


def test_a_method_without_a_file_and_defaults_is_described_and_identified_by_what_it_is_given(small_net, monkeypatch):
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    options = default_options("tent", momentum=0.9)
    own = type("Own", (METHODS.get("tent"),), {})
    assert "without effect" not in own(AdaptableNetwork(small_net), options).describe()
    register_method("own")(own)
    assert "without effect" not in own(AdaptableNetwork(small_net), options).describe()
    assert identified_method({"name": "own", **asdict(options)})["momentum"] == 0.9
    assert identified_method({"name": "tent", **asdict(options)})["momentum"] == 0.0


def test_what_an_experiment_sweeps_over_is_no_list_of_defaults():
    for path in EXPERIMENTS_DIR.glob("*.yaml"):
        assert "model.branches" not in (yaml.safe_load(path.read_text()).get("sweep") or {}), "choose branches=all"


def digest(cells):
    return hashlib.sha256("\n".join(cell_hash(cell.identity()) for cell in cells).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in EXPERIMENTS_DIR.glob("*.yaml") if path.stem not in ("extended", "search"))
)
def test_the_cells_of_an_experiment_are_those_they_always_were(name):
    assert digest([one.cell for one in plan(name).cells]) == HASHES[name]


@pytest.mark.parametrize("preset", ["uniform", "official"])
def test_the_cells_of_all_methods_are_those_they_always_were(preset):
    text = {name: (CONFIG_DIR / f"method/{name}.yaml").read_text() for name in METHODS.names()}
    names = [name for name in text if preset == "uniform" or "\npreset:" in text[name]]
    words = [f"+method={','.join(names)}", "source=D", "branches=all"]
    jobs = find_jobs(words + [f"method.preset={preset}"] * (preset == "official"))
    for name, job in zip(names, jobs, strict=True):
        assert digest(Cell.all_of(job.config)) == HASHES[f"{name} {preset}"]
