"""Table 5 of the GraTa paper: any two of six objectives, as pseudo and auxiliary one."""

import functools
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.ops.draws import ImageKey

BRANCHED = ("denoising", "reconstruction", "rotation", "super_resolution")
OBJECTIVE_NAMES = ("consistency", "entropy", *BRANCHED)
PAIRS = list(permutations(OBJECTIVE_NAMES, 2))
ALL_BRANCHES = "model.branches=[reconstruction,denoising,super_resolution,rotation]"


@pytest.fixture(scope="module")
def networks(small_net):
    """An adaptable network by its branches; methods leave it as it is."""
    return functools.cache(lambda branches=(): AdaptableNetwork(small_net, branches))


def make(networks, pseudo, auxiliary, name="grata"):
    options = default_options(name, pseudo=pseudo, auxiliary=auxiliary, learning_rate=1e-3)
    kind = METHODS.get(name)
    return kind(networks(kind.branches(options)), options)


def enlarged(images, *names):
    """Half of 64 px is too small for the small network's bottleneck."""
    return F.interpolate(images, scale_factor=2) if "super_resolution" in names else images


def walk(method, streams):
    """Two images of each stream side by side, ``[streams, 2, 3, H, W]``; the logits ``[streams, 2, classes, H, W]``."""
    method.start(len(streams))
    names = list(streams)
    steps = [
        method.step(torch.stack([streams[s][k] for s in names]), [ImageKey(0, s, f"image{k}") for s in names])
        for k in range(2)
    ]
    assert not any(any(step.diagnostics["skipped"]) for step in steps)
    return torch.stack([step.logits for step in steps], dim=1)


def test_there_are_six_objectives_of_the_paper_and_thirty_pairs():
    assert set(OBJECTIVE_NAMES) == set(OBJECTIVES.names()) - {"regeneration"}
    assert len(PAIRS) == 30


@pytest.mark.parametrize(("pseudo", "auxiliary"), PAIRS)
def test_any_pair_adapts_what_its_pseudo_objective_depends_on(networks, images, pseudo, auxiliary):
    method = make(networks, pseudo, auxiliary)
    images = enlarged(images, pseudo, auxiliary)
    logits = walk(method, {"B": images[:2], "C": images[2:4]})
    assert logits.isfinite().all()

    path = networks().source_theta.numel()
    branches = [name for name in (pseudo, auxiliary) if name in BRANCHED]
    assert method.branches(method.options) == tuple(branches)
    alone = [networks((name,)).source_theta.numel() - path for name in branches]
    assert method.source_theta.numel() == path + sum(alone)

    moved = (method.theta(2) != method.source_theta).all(0)
    slices = iter(method.network.tensor_slices())
    adapted = ("down.", f"branches.{pseudo}.") if pseudo in BRANCHED else ("down.", "up.")
    for layer in method.network.layers:
        for part in (next(slices), next(slices)):
            assert moved[part].any() == layer.startswith(adapted), layer


@pytest.mark.parametrize(("pseudo", "auxiliary"), [pair for pair in PAIRS if set(pair) & set(BRANCHED)])
def test_streams_side_by_side_equal_one_by_one_with_branches(networks, images, pseudo, auxiliary):
    images = enlarged(images, pseudo, auxiliary)
    streams = {"B": images[:2], "C": images[2:4], "D": images[4:6]}
    together = make(networks, pseudo, auxiliary)
    logits = walk(together, streams)
    for row, name in enumerate(streams):
        single = make(networks, pseudo, auxiliary)
        torch.testing.assert_close(walk(single, {name: streams[name]})[0], logits[row], rtol=0, atol=1e-9)
        torch.testing.assert_close(single.theta(1)[0], together.theta(3)[row], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "gsmorph"])
def test_other_methods_with_two_objectives_take_branches_too(networks, images, name):
    method = make(networks, "rotation", "denoising", name)
    walk(method, {"B": images[:2]})
    assert method.branches(method.options) == ("rotation", "denoising")
    assert (method.theta(1) != method.source_theta).any()


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_a_pair_of_an_objective_with_itself_is_refused(name):
    with pytest.raises(UserError) as refused:
        check(["+method=grata", "source=D", ALL_BRANCHES, f"method.pseudo={name}", f"method.auxiliary={name}"])
    assert refused.value.faults == (
        f"method: pseudo and auxiliary are both '{name}': a gradient is aligned with another one",
    )


@pytest.mark.parametrize("role", ["pseudo", "auxiliary"])
@pytest.mark.parametrize("name", BRANCHED)
def test_an_objective_without_its_branch_is_refused_with_the_remedy(name, role):
    words = ["+method=grata", "source=D", f"method.{role}={name}"]
    with pytest.raises(UserError) as refused:
        check(words)
    assert refused.value.faults == (
        f"method=grata needs a source model with the branch {name}: train one with model.branches=[{name}]",
    )
    assert check([*words, f"model.branches=[{name}]"])


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("method.noise_std=-0.1", "noise_std=-0.1: input should be greater than or equal to 0"),
        ("method.noise_std=inf", "noise_std=inf: input should be a finite number"),
        ("method.super_resolution_factor=3", "super_resolution_factor=3 must be 2 or 4"),
    ],
)
def test_options_of_objectives_out_of_range_are_refused(word, fault):
    with pytest.raises(UserError, match=fault):
        check(["+method=grata", "source=D", word])
