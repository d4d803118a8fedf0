import math
from dataclasses import replace

import pytest
import torch

from tta_bench.errors import UserError
from tta_bench.methods.optimizers import make_optimizer
from tta_bench.methods.options import default_options
from tta_bench.methods.sar import (
    REFERENCE_UPDATES,
    SAR,
    adapted_columns,
    masked_mean,
    sharpness_aware_gradient,
)
from tta_bench.methods.state import AdaptedParameters
from tta_bench.methods.tent import Tent
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.probabilities import entropies

EVERYTHING = math.inf
SGD = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-2}
KEYS = [ImageKey(0, "B", f"image{k}") for k in range(12)]


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net)


def start(network, streams=1, **options):
    method = SAR(network, replace(default_options("sar"), **options))
    method.start(streams)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def vector(*values):
    return torch.tensor([values], dtype=torch.float64)


def momentum_of(method, row):
    return method.state.moments[0, row].clone()


def test_without_selection_and_ascent_sar_is_tent_with_the_same_optimiser_s1(network, images):
    tent = Tent(network, replace(default_options("tent"), **SGD, entropy_form="binary"))
    tent.start(1)
    method = start(network, **SGD, rho=0.0, margin=EVERYTHING)
    for k in range(5):
        expected, result = (m.step(images[k : k + 1], KEYS[k : k + 1]) for m in (tent, method))
        torch.testing.assert_close(method.theta(1), tent.theta(1), rtol=0, atol=1e-12)
        torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=1e-10)
        assert result.diagnostics["selected"] == [1.0]
    assert (method.theta(1) - network.source_theta).abs().max() > 1e-3


def test_an_empty_selection_changes_nothing_not_even_by_momentum_s2(network, images):
    method = start(network, streams=2, **SGD, margin=EVERYTHING)
    method.adapt(images[:2], Draws(KEYS[:2]))
    theta, momentum = method.theta(2).clone(), [momentum_of(method, row).clone() for row in (0, 1)]
    nothing = SAR(network, replace(default_options("sar"), **SGD, margin=0.0))
    nothing.start(2)
    nothing.state = method.state
    diagnostics = nothing.adapt(images[2:4], Draws(KEYS[2:4]))
    assert torch.equal(nothing.theta(2), theta)
    assert all(torch.equal(momentum_of(nothing, row), momentum[row]) for row in (0, 1))
    assert diagnostics["selected"].tolist() == [0, 0]
    assert diagnostics["skipped"].tolist() == [False, False]


def test_an_empty_selection_from_the_start_leaves_no_optimiser_state_s2(network, images):
    method = start(network, margin=0.0, learning_rate=1.0)
    run(method, images[:3])
    assert torch.equal(method.theta(1)[0], network.source_theta)
    assert not method.state.steps.any()
    assert not method.state.moments.any()
    assert method.skipped == 0


def test_the_ascent_and_the_momentum_of_the_worked_example_s3():
    state = AdaptedParameters(vector(3, 4)[0], 1, make_optimizer("sgd", 0.9))
    visited = []

    def gradient_at(theta):
        visited.append(theta.clone())
        return theta.square().sum(1) / 2, theta

    for expected in ((2.697, 3.596), (2.1516, 2.8688)):
        first, second, gradient = sharpness_aware_gradient(gradient_at, state.theta, 0.05)
        assert second > first  # uphill
        state.step(gradient, torch.tensor([0.1]), second)
        # The rate is a float32 number in this test: 1e-8 of relative error.
        torch.testing.assert_close(state.theta, vector(*expected), rtol=0, atol=1e-7)
    torch.testing.assert_close(visited[1], vector(3.03, 4.04), rtol=0, atol=1e-12)


def test_every_row_ascends_by_rho_and_a_zero_gradient_stays():
    theta = torch.cat([vector(3, 4), vector(0, 0), vector(-30, 40)])
    visited = []
    sharpness_aware_gradient(lambda t: (visited.append(t), (t.sum(1), t))[1], theta, 0.05)
    moved = (visited[1] - theta).norm(dim=1)
    torch.testing.assert_close(moved, vector(0.05, 0, 0.05)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_recovery_brings_a_stream_back_to_the_source_and_forgets_its_moments_s4(network, images, optimizer):
    settings = SGD | {"optimizer": optimizer}
    method = start(network, **settings, margin=EVERYTHING, recovery=1e6)
    results = run(method, images[: REFERENCE_UPDATES + 1])
    recovered = [result.diagnostics["recovered"][0] for result in results]
    assert recovered == [False] * (REFERENCE_UPDATES - 1) + [True, True]
    assert torch.equal(method.theta(1)[0], network.source_theta)
    assert method.average.isnan().all()
    assert not method.state.steps.any()
    assert not method.state.moments.any()


def test_recovery_of_one_stream_leaves_the_others_s4(network, images):
    method = start(network, streams=2, **SGD, margin=EVERYTHING, recovery=0.5)
    method.adapt(images[:2], Draws(KEYS[:2]))
    method.reference = torch.tensor([1e3, 1e-3], dtype=torch.float64)
    assert method.adapt(images[2:4], Draws(KEYS[2:4]))["recovered"].tolist() == [True, False]
    assert torch.equal(method.theta(2)[0], network.source_theta)
    assert (method.theta(2)[1] != network.source_theta).any()
    assert method.average.isnan().tolist() == [True, False]
    assert not momentum_of(method, 0).any()
    assert momentum_of(method, 1).any()


def test_the_average_keeps_nine_tenths_of_the_past_and_the_reference_is_taken_once(network, images):
    method = start(network, **SGD, margin=EVERYTHING, recovery=1e-6)
    average = None
    for k, result in enumerate(run(method, images[:12])):
        loss = result.diagnostics["loss_perturbed"][0]
        average = loss if average is None else 0.9 * average + 0.1 * loss
        if k + 1 == REFERENCE_UPDATES:
            reference = average
    assert method.average.item() == pytest.approx(average, abs=1e-12)
    assert method.reference.item() == pytest.approx(reference, abs=1e-12)


def test_an_empty_selection_does_not_enter_the_average(network, images):
    method = start(network, **SGD, margin=0.0, recovery=0.5)
    run(method, images[:2])
    assert method.average.isnan().all()


@pytest.mark.parametrize("unit", ["pixel", "image"])
def test_a_larger_margin_selects_more_s5(network, images, unit):
    margins = [0, 0.5, 0.8, 0.9, 0.95, 0.98, 1, EVERYTHING]
    share = [run(start(network, margin=m, unit=unit), images[:1])[0].diagnostics["selected"][0] for m in margins]
    assert share == sorted(share)
    assert (share[0], share[-1]) == (0, 1)
    assert any(0 < s < 1 for s in share) == (unit == "pixel")


def test_the_second_pass_selects_among_the_first_s_units(network, images):
    method = start(network, margin=0.95, rho=5.0)
    first, second = (
        entropies(network(images[:1], theta), "sigmoid") < 0.95 * math.log(2)
        for theta in (method.theta(1), ascended(method, images[:1], 0.95, 5.0))
    )
    selected = run(method, images[:1])[0].diagnostics["selected"][0]
    assert selected == pytest.approx((first & second).double().mean().item(), abs=1e-12)
    assert selected < min(first.double().mean().item(), second.double().mean().item())


def ascended(method, image, margin, rho):
    """Theta at the end of the ascent, written out."""

    def objective(bound):
        units = entropies(bound(image), "sigmoid")
        return units[units < margin * math.log(2)].mean()[None]

    _, gradient = method.gradient(objective, method.theta(1))
    return method.theta(1) + rho * gradient / gradient.norm()


def test_the_default_margin_keeps_what_is_almost_certain():
    probabilities = torch.tensor([0.0793, 0.0795, 0.9205, 0.9207], dtype=torch.float64)
    limit = default_options("sar").margin * math.log(2)
    assert limit == pytest.approx(0.2772589, abs=1e-7)
    assert (entropies(torch.logit(probabilities), "sigmoid") < limit).tolist() == [True, False, False, True]
    assert entropies(torch.tensor(2.450765), "sigmoid").item() == pytest.approx(limit, abs=1e-6)


def test_the_mean_over_nothing_is_zero_and_what_is_not_finite_stays_visible():
    values = torch.tensor([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0], [1.0, 2.0, math.nan]])
    mask = torch.tensor([[True, False, True], [False] * 3, [True, True, False]])
    mean = masked_mean(values, mask)
    assert mean[:2].tolist() == [3.5, 0.0]
    assert mean[2].isnan()


def test_skipped_layers_keep_their_parameters_and_do_not_count_in_the_ascent(network, images):
    method = start(network, **SGD, margin=EVERYTHING, skip_layers=("up.",))
    run(method, images[:2])
    moved = (method.theta(1) - network.source_theta)[0]
    names = [name for name in network.layers for _ in range(2 * network.layers[name].channels)]
    kept = torch.tensor([name.startswith("up.") for name in names])
    assert (moved[kept] == 0).all()
    assert (moved[~kept] != 0).any()
    assert f"of which {int(kept.sum())} are left" in method.describe()


def test_skipping_the_last_stage_of_the_paper_s_network_skips_seven_layers():
    network = AdaptableNetwork(ResUNet(2))
    adapted = adapted_columns(network, ("layer4",))
    assert sum("layer4" in name for name in network.layers) == 7
    assert len(adapted) == 19_136
    assert int((~adapted).sum()) == 7_168


def test_a_layer_name_that_does_not_exist_is_refused(network):
    with pytest.raises(UserError, match="contains 'layer9'"):
        SAR(network, replace(default_options("sar"), skip_layers=("layer9",)))


def test_the_official_preset():
    options = default_options("sar", preset="official")
    assert options == replace(
        default_options("sar"), learning_rate=1.5625e-5, optimizer="sgd", momentum=0.9, skip_layers=("layer4",)
    )


@pytest.mark.parametrize(
    "options", [{"rho": -0.1}, {"rho": EVERYTHING}, {"margin": -0.1}, {"margin": math.nan}, {"recovery": 0.0}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        replace(default_options("sar"), **options)
