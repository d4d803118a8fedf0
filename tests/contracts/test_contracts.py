"""Laws that every registered method obeys; ids C1-C7 are those of the methods' common contract."""

import copy
import pickle

import pytest
import torch
from runs import (
    LENGTHS,
    NAMES,
    assert_equal,
    branches_of,
    every_method,
    gradient_methods,
    keys_of,
    largest_difference,
    make,
    one,
    run,
)
from settings import SETTINGS, options_of, setting_of, varied

from tta_bench.methods.base import METHODS, Card, GradientMethod, Method, Protocol
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import Draws

EXACT = {"rtol": 0, "atol": 0}


def optimizer_state(method):
    """Moments and step counters by row; empty for methods without an optimiser."""
    state = getattr(method, "state", None)
    if state is None:
        return []
    return [
        (moments.clone(), steps.clone()) for moments, steps in zip(state.moments.unbind(1), state.steps, strict=True)
    ]


def test_the_table_names_registered_methods_only():
    assert set(SETTINGS) <= set(NAMES)
    assert {setting_of(name).control for name in NAMES} <= set(NAMES)


@every_method
def test_without_updates_a_method_predicts_as_its_control_c1(networks, streams, usual, name):
    setting = setting_of(name)
    if setting.no_update is None:
        pytest.skip(f"{name} has no switch that turns its updates off")
    method = make(name, networks(name), **setting.no_update)
    assert_equal(usual(setting.control), run(method, streams), atol=1e-6)
    theta = method.theta(3)
    assert torch.equal(theta, method.source_theta.expand_as(theta))


@gradient_methods
def test_with_updates_a_gradient_method_predicts_differently(usual, name):
    assert largest_difference(usual(setting_of(name).control, "B"), usual(name, "B")) > 1e-5


@every_method
def test_a_fresh_start_forgets_everything_and_a_target_after_another_is_as_alone_c2_bn13(
    networks, streams, usual, name
):
    method = make(name, networks(name))
    run(method, one(streams, "B"))
    method.start(2)
    assert not any(part.any() for row in optimizer_state(method) for part in row)
    assert torch.equal(method.theta(2), method.source_theta.expand(2, -1))
    assert_equal(usual(name, "C"), run(method, one(streams, "C")))


@every_method
def test_only_the_method_s_own_state_changes_and_the_same_seed_gives_the_same_bits_c3_c5(
    networks, streams, usual, name
):
    network = networks(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    global_state = torch.get_rng_state()
    again = run(make(name, network), streams)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not network.source_theta.requires_grad
    assert torch.equal(torch.get_rng_state(), global_state)
    assert_equal(usual(name), again)


@every_method
def test_the_images_are_not_written_to_c4(networks, streams, name):
    method, images = make(name, networks(name)), streams["B"][:2].clone()
    method.start(2)
    method.step(images, keys_of("BC", 0))
    assert torch.equal(images, streams["B"][:2])
    assert not images.requires_grad


@every_method
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("steps", [1, 2])
def test_forwards_and_backwards_are_those_of_the_card_c6(networks, streams, name, count, steps):
    network, method = networks(name), make(name, networks(name), Protocol(steps=steps))
    method.start(count)
    before = network.forwards
    method.step(streams["B"][:count], keys_of("BCD"[:count], 0))
    predictions = method.card.predictions
    assert network.forwards - before == predictions + steps * (method.card.forwards - predictions)
    assert method.backwards == steps * method.card.backwards


@every_method
def test_the_card_says_whether_there_are_gradients(name):
    method = METHODS.get(name)
    assert method.card.needs_gradients == (method.card.backwards > 0)
    if issubclass(method, GradientMethod):
        assert method.card.needs_gradients


@every_method
def test_with_a_reset_at_every_image_history_does_not_matter_c7(networks, streams, name):
    protocol = Protocol(episodic=True)
    history = run(make(name, networks(name), protocol), one(streams))
    for k in (1, 4):
        method = make(name, networks(name), protocol)
        alone = method.step(streams["B"][k : k + 1], keys_of("B", k))
        torch.testing.assert_close(alone.logits[0], history.logits["B", k], **EXACT)


@every_method
def test_streams_side_by_side_equal_one_by_one(streams, usual, name):
    together = usual(name)
    for domain in streams:
        alone = usual(name, domain)
        for place, logits in alone.logits.items():
            torch.testing.assert_close(together.logits[place], logits, rtol=0, atol=1e-9)
            for key, value in alone.diagnostics[place].items():
                assert together.diagnostics[place][key] == pytest.approx(value, abs=1e-9), key


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in NAMES for option in METHODS.get(name).card.per_stream]
)
def test_streams_with_options_of_their_own_equal_methods_with_these(networks, streams, usual, name, option):
    own = options_of(name)
    other = varied(own, option, 0.01)
    method = make(name, networks(name))
    method.share([own, other, own])
    with pytest.raises(RuntimeError, match=rf"reads options.{option}, which every stream has of its own"):
        getattr(copy.deepcopy(method.options), option)
    together = run(method, streams)
    alone = {"B": usual(name, "B"), "D": usual(name, "D")}
    alone["C"] = run(METHODS.get(name)(networks(name), other), one(streams, "C"))
    assert alone["C"].diagnostics != usual(name, "C").diagnostics, "it has an effect"
    for each in alone.values():
        for place, logits in each.logits.items():
            torch.testing.assert_close(together.logits[place], logits, rtol=0, atol=1e-10)
            assert together.diagnostics[place] == pytest.approx(each.diagnostics[place], abs=1e-10, nan_ok=True)


def with_fault(streams, domain, k, value=float("nan")):
    """The same streams with pixels that are not finite in one image."""
    faulty = streams | {domain: streams[domain].clone()}
    faulty[domain][k, :, 20:24, 30:34] = value
    return faulty


@every_method
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_harms_no_other_stream_and_no_later_image(networks, streams, usual, name, value):
    method = make(name, networks(name))
    faulty = run(method, with_fault(streams, "C", 1, value))
    healthy = usual(name)
    for (domain, k), logits in faulty.logits.items():
        if domain != "C" or k == 0:
            torch.testing.assert_close(logits, healthy.logits[domain, k], **EXACT)
        elif k > 1:
            assert logits.isfinite().all()
    assert method.theta(3).isfinite().all()
    if method.card.needs_gradients:
        assert method.skipped == 1
        assert [d["skipped"] for (domain, _), d in faulty.diagnostics.items() if domain == "C"] == [0, 1, 0, 0]


@gradient_methods
def test_a_skipped_step_leaves_affine_parameters_and_optimiser_as_they_were(networks, streams, name):
    method = make(name, networks(name))
    theta, moments = [], []

    def record(k):
        theta.append(method.theta(3).clone())
        moments.append(optimizer_state(method))

    run(method, with_fault(streams, "C", 1), after_step=record)
    if method.protocol.episodic:  # by its nature: every image starts from the source model
        theta[0][:] = method.source_theta
        moments[0] = [tuple(map(torch.zeros_like, row)) for row in moments[0]]
    assert torch.equal(theta[1][1], theta[0][1])
    assert not torch.equal(theta[1][0], theta[0][0])
    if not moments[0]:
        return
    assert all(map(torch.equal, moments[0][1], moments[1][1]))


@gradient_methods
def test_a_skipped_image_is_as_if_it_had_not_been_there(networks, streams, name):
    faulty = run(make(name, networks(name)), with_fault(one(streams, "C"), "C", 1))
    method = make(name, networks(name))
    method.start(1)
    for k in (0, 2, 3):
        result = method.step(streams["C"][k : k + 1], keys_of("C", k))
        torch.testing.assert_close(result.logits[0], faulty.logits["C", k], **EXACT)


@every_method
def test_predicting_changes_nothing(networks, streams, name):
    method, undisturbed = make(name, networks(name)), make(name, networks(name))
    method.start(1)
    undisturbed.start(1)
    for k in range(3):
        image, other = streams["B"][k : k + 1], streams["C"][:1]
        result = method.step(image, keys_of("B", k))
        expected = undisturbed.step(image, keys_of("B", k))
        torch.testing.assert_close(result.logits, expected.logits, **EXACT)
        with torch.no_grad():
            first = method.predict(other)
            torch.testing.assert_close(method.predict(other), first, **EXACT)


@every_method
def test_predicting_before_the_update_uses_the_state_of_the_image_before(networks, streams, name):
    before = make(name, networks(name), Protocol(predict="before"))
    after = make(name, networks(name))
    before.start(1)
    after.start(1)
    for k in range(3):
        image, keys = streams["B"][k : k + 1], keys_of("B", k)
        if after.protocol.episodic:
            after.start(1)
        with torch.no_grad():
            expected = after.predict(image)
        torch.testing.assert_close(before.step(image, keys).logits, expected, **EXACT)
        after.step(image, keys)
        torch.testing.assert_close(before.theta(1), after.theta(1), **EXACT)


@every_method
def test_two_updates_per_image_are_two_calls_with_draws_of_their_own(networks, streams, name):
    twice = run(make(name, networks(name), Protocol(steps=2)), one(streams))
    method = make(name, networks(name))
    method.start(1)
    for k in range(len(streams["B"])):
        image = streams["B"][k : k + 1]
        if method.protocol.episodic:
            method.start(1)
        with torch.no_grad():
            for update in range(2):
                method.adapt(image, Draws(keys_of("B", k), update))
            torch.testing.assert_close(method.predict(image)[0], twice.logits["B", k], **EXACT)


@gradient_methods
def test_two_updates_per_image_differ_from_one(networks, streams, usual, name):
    assert largest_difference(usual(name, "B"), run(make(name, networks(name), Protocol(steps=2)), one(streams))) > 1e-6


@every_method
def test_float32_agrees_with_float64(small_net, streams, usual, name):
    single = AdaptableNetwork(copy.deepcopy(small_net).float(), branches_of(name))
    out = run(make(name, single), {domain: images.float() for domain, images in streams.items()})
    assert all(logits.dtype == torch.float32 for logits in out.logits.values())
    assert largest_difference(usual(name), out) < 1e-2


@every_method
def test_train_and_eval_calls_from_outside_change_nothing_bn11(small_net, streams, usual, name):
    network = AdaptableNetwork(small_net, branches_of(name))
    modes = [network.train, network.eval, network.model.train, network.model.eval, network.train]
    disturbed = run(make(name, network), one(streams), after_step=lambda k: modes[k]())
    assert_equal(usual(name, "B"), disturbed)


@every_method
def test_a_few_images_per_pass_change_neither_numbers_nor_counts(small_net, streams, usual, name):
    network = AdaptableNetwork(small_net, branches_of(name))
    network.images_per_pass = 2
    out = run(make(name, network), streams)
    assert_equal(usual(name), out, atol=1e-9)
    assert network.forwards == METHODS.get(name).card.forwards * max(LENGTHS.values())


@every_method
def test_inference_mode_is_refused(networks, streams, name):
    method = make(name, networks(name))
    method.start(1)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode=False"):
        method.step(streams["B"][:1], keys_of("B", 0))


@every_method
def test_diagnostics_are_plain_numbers_one_per_stream(usual, name):
    for diagnostics in usual(name).diagnostics.values():
        assert all(isinstance(value, float | int) for value in diagnostics.values())


class Counting(Method):
    """Reports its own state, to which it writes at every image."""

    card = Card("nothing", "test image", False, 1, 0, "a test", "-")

    def start(self, streams):
        super().start(streams)
        self.count = torch.zeros(streams)

    def adapt(self, images, draws):
        self.count += 1
        return {"count": self.count[: len(images)]}


def test_what_a_step_reports_is_of_its_own_image_whenever_it_is_read(networks, streams):
    method = Counting(networks("no_adapt"))
    method.start(1)
    results = [method.step(streams["B"][k : k + 1], keys_of(["B"], k)) for k in range(3)]
    for again in (results, copy.deepcopy(results), pickle.loads(pickle.dumps(results))):
        assert [result.diagnostics["count"] for result in again] == [[1], [2], [3]]
