"""Which methods and options repeat seeds: exactly those that give other numbers for another seed."""

from dataclasses import fields

import pytest
import torch.nn.functional as F
from settings import options_of

from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.objectives.base import OBJECTIVES, draws_at_random
from tta_bench.ops.draws import ImageKey
from tta_bench.ops.views import StrongAugmentation

ALL = ("reconstruction", "denoising", "super_resolution", "rotation")
OFF = {name: {"p": 0.0, "range": [0.5, 1.5]} for name in ("brightness", "contrast", "gamma", "noise", "blur")}
IDENTITY = {"brightness": {"p": 0.75, "range": [1, 1]}, "noise": {"p": 0.5, "range": [0, 0]}}
CONSTANT = {
    "brightness": {"p": 1.0, "range": [0.8, 0.8]},
    "contrast": {"p": 1.0, "range": [1.2, 1.2]},
    "gamma": {"p": 1.0, "range": [1.5, 1.5]},
    "blur": {"p": 1.0, "range": [0.7, 0.7]},
    "blur_channel_p": 1.0,
}
PAIRS = ("grata", "pcgrad", "cagrad", "gsmorph")

VARIANTS = [
    *[(name, {}) for name in METHODS.names()],
    *[(name, {"strong_augmentation": OFF}) for name in (*PAIRS, "sagm")],
    *[("grata", {"strong_augmentation": OFF | changed}) for changed in (IDENTITY, CONSTANT)],
    ("grata", {"strong_augmentation": OFF | CONSTANT | {"blur_channel_p": 0.5}}),
    ("grata", {"strong_augmentation": OFF | {"blur": {"p": 1.0, "range": [0.5, 1.5]}, "blur_channel_p": 0.0}}),
    ("grata", {"strong_augmentation": OFF | {"contrast": {"p": 0.5, "range": [1.2, 1.2]}}}),
    ("grata", {"strong_augmentation": OFF | {"contrast": {"p": 1.0, "range": [0.5, 0.5]}}}),
    ("grata", {"strong_augmentation": OFF | {"gamma": {"p": 1.0, "range": [0.5, 0.5]}}}),
    ("grata", {"strong_augmentation": OFF | {"noise": {"p": 1.0, "range": [0.1, 0.1]}}}),
    *[("grata", {"pseudo": "entropy", "auxiliary": name}) for name in (*ALL, "consistency")],
    ("grata", {"pseudo": "reconstruction", "auxiliary": "super_resolution"}),
    ("grata", {"pseudo": "entropy", "auxiliary": "denoising", "noise_std": 0.0}),
    ("grata", {"pseudo": "rotation", "strong_augmentation": OFF}),
    ("cotta", {"restore": 0.0}),
    ("cotta", {"restore": 1.0}),
    ("cotta", {"restore": 0.5}),
    ("dua", {"augmentations": []}),
    ("dua", {"augmentations": ["crop"], "padding": 0.0}),
    *[("dua", {"augmentations": [name]}) for name in ("crop", "flip", "rotate")],
    ("dua", {"max_updates": 0}),
    ("dua", {"decay": 0.0, "floor": 0.0}),
    ("dua", {"initial_momentum": 0.0, "floor": 0.0}),
    ("detta", {"running_momentum": 0.1}),
    ("sar", {"unit": "image"}),
    ("memo", {"parameters": "affine"}),
]


@pytest.fixture(scope="module")
def network(small_net):
    """One network for every method: branches that a method does not use cost nothing."""
    return AdaptableNetwork(small_net, ALL)


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_another_seed_gives_other_numbers_where_the_method_says_so_and_the_same_bits_elsewhere(
    network, images, name, overrides
):
    if "super_resolution" in overrides.values():  # whose branch sees half of each side
        images = F.interpolate(images[:3], scale_factor=2)
    kind = METHODS.get(name)
    options = options_of(name, **overrides)
    numbers = []
    for seed in (0, 1):
        method = kind(network, options)
        method.start(1)
        results = [method.step(images[k : k + 1], [ImageKey(seed, "B", f"image{k}")]) for k in range(3)]
        numbers.append([(result.logits.tolist(), result.diagnostics) for result in results])
    assert (numbers[0] != numbers[1]) == kind.is_stochastic(options)


@pytest.mark.parametrize("name", METHODS.names())
def test_the_card_says_what_holds_by_default(name):
    assert METHODS.get(name).card.stochastic == METHODS.get(name).is_stochastic(default_options(name))


def test_an_objective_that_says_nothing_may_draw(monkeypatch):
    OBJECTIVES.names()
    monkeypatch.setitem(OBJECTIVES._items, "silent", lambda network, images, draws: images.flatten(1).mean(1))
    assert draws_at_random("silent")
    options = default_options("grata", auxiliary="silent", pseudo="entropy")
    assert METHODS.get("grata").is_stochastic(options)


def test_the_variants_know_every_switch_of_the_strong_view():
    assert {field.name for field in fields(StrongAugmentation)} == {*OFF, "blur_channel_p"}
