"""A key that null is no value of says so in one sentence, with what it takes: a law over all keys that there are."""

import copy
import re

import pytest
from omegaconf import OmegaConf

from tta_bench.errors import UserError
from tta_bench.launch.composition import composer
from tta_bench.launch.validation import validate
from tta_bench.methods.base import METHODS
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.options import default_section
from tta_bench.runtime.sections import is_section, kind_at
from tta_bench.schema import RunConfig

GIVEN = {  # sections that are null by default
    ("model", "preprocessing"): {"range": "unit", "mean": [0.5], "std": [0.5]},
    ("data", "intensity"): {"window": [0, 1]},
}
NEEDS_OTHERS = {"data.intensity.window", "model.encoder", "model.preprocessing.mean", "model.preprocessing.std"}
"""Which may be null, but not with what stands beside them."""

REMEDY = re.compile("(give|input should be|choose one of:|add) .")


def keys(kind=RunConfig, above=()):
    for key in kind.model_fields:
        yield (*above, key)
        below = kind_at(kind, [key])
        if is_section(below):
            yield from keys(below, (*above, key))


def changed(content, path, value):
    changed = copy.deepcopy(content)
    at = changed
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return changed


def composed(*words):
    with composer() as hydra:
        return OmegaConf.to_container(hydra.compose(words), resolve=True)


def faults(content):
    try:
        validate(content)
    except UserError as refused:
        return refused.faults
    return ()


def check(content, paths):
    """Without a value a run is one, or there is one sentence more: it says so, and what the key takes."""
    before = faults(content)
    for path in paths:
        key = ".".join(path)
        new = [each for each in faults(changed(content, path, None)) if each not in before]
        assert len(new) < 2, new
        for sentence in new:
            assert key in NEEDS_OTHERS or f"{key}=null: " in sentence
            assert all(part in sentence for part in path)
            assert REMEDY.search(sentence), sentence
            assert not re.search("None|class|instance|dictionary|tuple", sentence), sentence


def test_of_the_schema():
    content = composed("+method=tent", "logger=csv")
    for path, value in GIVEN.items():
        content = changed(content, path, value)
    found = [path for path in keys() if path != ("method",)]  # is chosen as a group
    assert {("launch", "pack"), ("protocol", "steps"), ("data", "intensity", "window")} <= {*found}
    check(content, found)


@pytest.mark.parametrize("name", METHODS.names())
def test_of_the_options_of_methods(name):
    content = composed(f"+method={name}", "branches=all", "data.image_size=128")
    check(content, [("method", key) for key in content["method"] if key != "name"])


@pytest.mark.parametrize("name", SYSTEMS.names())
def test_of_the_options_of_systems(name):
    content = composed("+method=tent", f"adapt={name}", "protocol.evaluation=held_out")
    check(content, [("adapt", key) for key in default_section(name) if key != "name"])
