"""Every number of a configuration has a type and a finite range: laws over the schema, not over examples."""

import math
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.validation import validate
from tta_bench.methods.base import METHODS, MethodOptions
from tta_bench.methods.options import default_options, method_options
from tta_bench.runtime.training_section import AugmentationConfig
from tta_bench.schema import RunConfig
from tta_bench.source.augmentation import Augmentation

UNLIMITED = {("dltta", "largest_rate"), ("sar", "margin")}
"""Options of which infinity is a value of the authors: no limit."""

NEVER = (math.nan, -math.inf, True, False, "1", "x", None, [], {}, -(2**70), 10**400)
"""What is a number in no range; None is one for an option that may be absent, and then tried no further."""


def numbers(schema, path=()):
    """Every number of a pydantic-core schema: its path and its node, which says whether it may be null."""
    if schema["type"] == "nullable":
        yield from ((place, {**node, "nullable": True}) for place, node in numbers(schema["schema"], path))
        return
    if schema["type"] in ("int", "float"):
        yield path, schema
    for each in schema.get("choices", ()):
        yield from numbers(each[0] if isinstance(each, tuple) else each, path)
    fields = schema.get("fields", {})  # by name in a model, a list in a dataclass
    named = fields.items() if isinstance(fields, dict) else [(e["name"], e) for e in fields if isinstance(e, dict)]
    for name, each in named:
        yield from numbers(each["schema"], (*path, name))
    for key in ("items_schema", "values_schema"):
        inner = schema.get(key, [])
        for place, each in enumerate(inner if isinstance(inner, list) else [inner]):
            yield from numbers(each, (*path, place if key == "items_schema" else "*"))
    if isinstance(schema.get("schema"), dict):
        yield from numbers(schema["schema"], path)


def resolved(schema, definitions=None):
    """The schema without references."""
    definitions = definitions or {}
    if isinstance(schema, dict):
        if schema.get("type") == "definitions":
            return resolved(schema["schema"], {each["ref"]: each for each in schema["definitions"]})
        if schema.get("type") == "definition-ref":
            return resolved(definitions[schema["schema_ref"]], definitions)
        return {key: resolved(value, definitions) for key, value in schema.items()}
    return type(schema)(resolved(each, definitions) for each in schema) if type(schema) in (list, tuple) else schema


@pytest.fixture(scope="module")
def run():
    """A whole valid configuration, as plain values."""
    (config,) = check(["+method=no_adapt", "training.batch_size=2", "model.decoder_channels=[16,16,8,8,8]"])
    return config.model_dump(mode="json")


SETTINGS = dict(numbers(resolved(RunConfig.__pydantic_core_schema__)))
SETTINGS.pop(("search", "shifts", "*", 0))  # each shift has a range of its own: tests/search
OPTIONS = {
    (name, *path): node
    for name in METHODS.names()
    for path, node in numbers(resolved(TypeAdapter(METHODS.get(name).Options).core_schema))
}


def put(content, path, value):
    """A copy of nested mappings and lists with another value at one place; a list that is absent is made."""
    if not path:
        return value
    here, *rest = path
    if isinstance(here, int):
        items = list(content) if isinstance(content, list | tuple) else [0.5] * (here + 1)
        items[here] = put(items[here], rest, value)
        return items
    content = dict(content or {})
    key = next(iter(content), "cup") if here == "*" else here  # of grey codes, where there are none
    return content | {key: put(content.get(key), rest, value)}


def beyond(node):
    """Values just outside the range of a number, and values of a wrong kind."""
    whole = node["type"] == "int"
    step = (lambda x, _: x + 1, lambda x, _: x - 1) if whole else (math.nextafter, math.nextafter)
    if "le" in node:
        yield step[0](node["le"], math.inf)
    if "lt" in node:
        yield node["lt"]
    yield step[1](node["ge"], -math.inf) if "ge" in node else node["gt"]
    if whole:
        yield from (1.5, float(node.get("ge", 1)))


def test_the_walk_finds_the_numbers_of_sections_methods_and_nested_dataclasses():
    assert {("training", "augmentation", "scale", 1), ("data", "image_size"), ("lockstep",)} <= SETTINGS.keys()
    assert {("grata", "strong_augmentation", "blur", "range", 1), ("vptta", "betas", 0)} <= OPTIONS.keys()
    assert len(SETTINGS) >= 30
    assert len(OPTIONS) >= 100


@pytest.mark.parametrize(("path", "node"), [*SETTINGS.items(), *OPTIONS.items()], ids=lambda x: str(x)[:40])
def test_every_number_has_a_finite_range_and_is_strict(path, node):
    low, high = node.get("ge", node.get("gt")), node.get("le", node.get("lt"))
    assert node["strict"]
    assert low is not None
    assert math.isfinite(low)
    if path in UNLIMITED:
        assert high is None
    else:
        assert high is not None
        assert math.isfinite(high)
        assert node["type"] == "int" or not node["allow_inf_nan"]


@pytest.mark.parametrize("path", SETTINGS, ids=str)
def test_what_is_no_number_of_a_section_is_refused_with_its_key(run, path):
    key = ".".join(part for part in path if isinstance(part, str) and part != "*")
    optional = SETTINGS[path].get("nullable", False)
    for value in (*NEVER, math.inf, 2**70, *beyond(SETTINGS[path])):
        if (value is None and optional) or (path[0] == "seed" and value == "1"):  # the text of a list of seeds
            continue
        with pytest.raises(UserError, match=key):
            validate(put(run, path, value))


@pytest.mark.parametrize("path", OPTIONS, ids=str)
def test_what_is_no_number_of_a_method_is_refused_with_its_key(path):
    name, *place = path
    valid = {"name": name, **asdict(default_options(name))}
    key = ".".join(part for part in place if isinstance(part, str))
    for value in (*NEVER, *beyond(OPTIONS[path]), *([] if path in UNLIMITED else [math.inf, 2**70])):
        if value is None and valid.get(place[0], 0) is None:
            continue
        with pytest.raises(UserError, match=key):
            method_options(put(valid, place, value))


def test_a_dataclass_built_by_hand_is_held_to_the_same_ranges():
    for (name, *place), node in OPTIONS.items():
        if len(place) > 1:
            continue
        with pytest.raises(ValueError, match=place[0]):
            replace(default_options(name), **{place[0]: next(iter(beyond(node)))})


@dataclass(frozen=True)
class Inner:
    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class PlugInOptions(MethodOptions):
    fraction: float = 0.5
    count: int | None = 3
    inner: Inner = field(default_factory=Inner)
    table: dict[str, tuple[float, ...]] = field(default_factory=dict)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", 10**400], ids=lambda v: str(v)[:9])
@pytest.mark.parametrize("path", [("fraction",), ("count",), ("inner", "weights", 0), ("table", "a", 0)], ids=str)
def test_options_of_a_plug_in_that_declare_no_range_are_finite_all_the_same(monkeypatch, path, value):
    plug_in = type("PlugIn", (), {"Options": PlugInOptions})
    monkeypatch.setattr(METHODS, "get", lambda name: plug_in)
    valid = {"name": "plug_in", "fraction": 2, "count": 2**63 - 1, "inner": {"weights": [1e300]}, "table": {"a": [1]}}
    assert method_options(valid) == PlugInOptions(2.0, 2**63 - 1, Inner([1e300]), {"a": (1.0,)})
    with pytest.raises(UserError, match=path[0]):
        method_options(put(valid, path, value))
    with pytest.raises(UserError, match="count"):
        method_options(valid | {"count": 2**63})


def test_a_number_that_yaml_takes_for_text_is_one():
    assert default_options("tent", learning_rate="1e-4").learning_rate == 1e-4


@pytest.mark.parametrize("ends", [[0.5, 0.4], [100.0, 0.01]])
def test_reversed_ranges_are_refused(run, ends):
    for key in ("scale", "brightness_range", "noise_range"):
        with pytest.raises(UserError, match=f"{key}=.* is reversed"):
            validate(put(run, ("training", "augmentation", key), ends))
    with pytest.raises(UserError, match=r"range=.* is reversed"):
        default_options("grata", strong_augmentation={"noise": {"p": 1.0, "range": ends}})


def test_augmentation_works_at_the_ends_of_its_ranges(run):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for end in (0, 1):
        values = {}
        for path, node in SETTINGS.items():
            if path[:2] == ("training", "augmentation"):
                number = node["ge"] if end == 0 else node["le"]
                values[path[2]] = [number, number] if len(path) > 3 else number
        augmented, mask = Augmentation(AugmentationConfig(**values), 64)(image, image[..., 0] // 99, 0)
        assert augmented.shape == image.shape
        assert mask.shape == (64, 64)
