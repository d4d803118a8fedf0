"""The loops that ``benchmarks/adapt_speed.py`` compares with do what our methods do, image after image."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plain_grata import all_parameters
from small_networks import BRANCHES, SmallNet, build
from tta_bench.methods.base import METHODS
from tta_bench.methods.cotta import chosen
from tta_bench.methods.detta import corrupt
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.preprocessing import min_max
from tta_bench.ops.views import Operation

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import adapt_speed
import history
from plain_loops import LOOPS

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(5)]
OPTIONS = {
    # Rates far above rounding; no strong view at random; what an untrained network is sure of; a memory in use.
    "tent": {"learning_rate": 1e-3},
    "sar": {"learning_rate": 1e-3, "margin": 0.95},
    "detta": {"learning_rate": 1e-3},
    "dltta": {"learning_rate": 1e-3, "memory": 3, "neighbours": 2, "rate_scale": 0.1, "largest_rate": 1e-2},
    "memo": {"learning_rate": 0.1},
    "cotta": {"learning_rate": 1e-3, "teacher_momentum": 0.5, "restore": 0.1},
    "grata": {"learning_rate": 1e-2},
}
OF_LOOPS = {"memory": "memory_size", "teacher_momentum": "momentum"}


def draw_as_the_method(name, loop, key):
    """Give a loop the random numbers of our method at one image."""
    if name == "detta":
        loop.corrupt = lambda x: corrupt(x, Draws([key]).generators("blind spots"), 0.1, 2)
    if name == "grata":
        loop.strong = lambda image: min_max(torch.from_numpy(image)[None])[0].numpy()
    if name == "cotta":
        parameters = all_parameters(loop.model)
        taken = torch.zeros(sum(each.numel() for each in parameters), dtype=torch.bool)
        taken[chosen(len(taken), loop.restore, Draws([key]).generators("stochastic restore")[0])] = True
        parts = taken.split([each.numel() for each in parameters])
        masks = {id(each): part.view_as(each) for each, part in zip(parameters, parts, strict=True)}
        loop.restored = lambda parameter: masks[id(parameter)]


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_and_its_method_predict_the_same(name, images):
    kind, options = METHODS.get(name), default_options(name, **OPTIONS.get(name, {}))
    if name == "grata":
        still = {
            key: replace(part, p=0.0)
            for key, part in vars(options.strong_augmentation).items()
            if isinstance(part, Operation)
        }
        options = replace(options, strong_augmentation=replace(options.strong_augmentation, **still))
    branches = kind.branches(options)
    model = build(SmallNet, branches=branches, seed=4)
    method = kind(AdaptableNetwork(model, branches), options)
    method.start(1)
    given = dict(OPTIONS.get(name, {}))
    loop = LOOPS[name](copy.deepcopy(model), given.pop("learning_rate", None))
    for key, value in given.items():
        setattr(loop, OF_LOOPS.get(key, key), value)
    if name == "dltta":
        loop.prepare()
    start = method.network(images[:1], method.source_theta[None], method.statistics)
    for k, key in enumerate(KEYS):
        draw_as_the_method(name, loop, key)
        expected = loop.step(images[k].numpy())
        result = method.step(images[k : k + 1], [key])
        torch.testing.assert_close(result.logits, expected, rtol=0, atol=1e-8)
        if k == 0 and name in OPTIONS:
            assert (expected - start).abs().max() > 1e-5
    assert loop.forwards == len(KEYS) * method.card.forwards
    assert loop.backwards == method.backwards


def test_every_loop_can_be_measured_and_is_that_of_a_method():
    assert set(adapt_speed.METHODS) == set(LOOPS) <= set(METHODS.names())
    assert all(set(loop.branches) <= set(BRANCHES) for loop in LOOPS.values())


def test_a_ratio_that_grew_by_more_than_a_tenth_is_told(tmp_path):
    row = {"method": "tent", "size": 64, "precision": "f32", "streams": 1, "device": "CPU", "threads": 2, "ratio": 0.5}
    old, new = ({"machine": "this", "commit": commit, "rows": [row]} for commit in "ab")
    file = tmp_path / "history.jsonl"
    assert history.read(file) == []
    for entry in (new | {"machine": "another", "rows": [row | {"ratio": 0.1}]}, old):
        history.append(file, entry)
    known = history.read(file)
    assert history.regressions(known, new | {"rows": [row | {"ratio": 0.549}]}) == []
    assert history.regressions(known, new | {"rows": [row | {"size": 128, "ratio": 9}]}) == []
    (told,) = history.regressions(known, new | {"rows": [row | {"ratio": 0.56}]})
    assert told == "tent at 64 px, f32: 0.560 of its plain loop, 0.500 at a"
