"""Every method on classes that exclude each other: it runs, and for two of them it is what it is for one sigmoid."""

from dataclasses import fields

import pytest
import torch
from settings import options_of

from small_networks import BRANCHES, SmallNet, build, with_bank
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS, Protocol
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.ops.draws import ImageKey

NAMES = METHODS.names()
FORMED = [name for name in NAMES if "entropy_form" in {each.name for each in fields(METHODS.get(name).Options)}]


class OneClass(SmallNet):
    """A class on its own."""

    def __init__(self):
        super().__init__(classes=1, branches=BRANCHES)


class AgainstBackground(OneClass):
    """The same class and a background of logit 0, which exclude each other."""

    activation = "softmax"

    def classify(self, head_input):
        logits = super().classify(head_input)
        return torch.cat([torch.zeros_like(logits), logits], dim=1)


class Exclusive(SmallNet):
    """A background and two classes."""

    activation = "softmax"

    def __init__(self):
        super().__init__(classes=3, branches=BRANCHES)


@pytest.fixture(scope="module")
def models():
    return {kind: with_bank(build(kind)) for kind in (OneClass, AgainstBackground, Exclusive)}


def adapted(model, name, images, **overrides):
    """The method after some images, and what it gave for each: probabilities and diagnostics."""
    options = options_of(name, **overrides)
    network = AdaptableNetwork(model, METHODS.get(name).branches(options))
    method = METHODS.get(name)(network, options, Protocol())
    method.start(2)
    results = []
    for k, pair in enumerate(images.unflatten(0, (-1, 2))):
        step = method.step(pair, [ImageKey(0, domain, f"image{k}") for domain in ("B", "C")])
        results.append((network.probabilities(step.logits), step.diagnostics))
    return method, results


@pytest.mark.parametrize("name", NAMES)
def test_a_method_adapts_to_classes_that_exclude_each_other(models, images, name):
    method, results = adapted(models[Exclusive], name, images[:8])
    for probabilities, diagnostics in results:
        assert probabilities.shape == (2, 3, 64, 64)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 64, 64).double())
        assert torch.tensor([*diagnostics.values()]).isfinite().all()
    if METHODS.get(name).card.needs_gradients:
        assert not torch.equal(method.theta(2), method.source_theta.expand(2, -1))
    assert method.skipped == 0


OTHERS = [
    ("domain_adaptor", {"temperature": "pixel"}),
    ("sar", {"unit": "image"}),
    ("cotta", {"confidence": 0.0, "optimizer": "sgd"}),  # Adam makes a step of a gradient that is but rounding
    ("dltta", {"compared_network": "source", "rate_function": "exponential"}),
]


@pytest.mark.parametrize(("name", "changed"), [*((name, {}) for name in NAMES), *OTHERS])
def test_against_a_background_alone_a_method_is_what_it_is_for_one_sigmoid(models, images, name, changed):
    binary = {"entropy_form": "binary"} if name in FORMED else {}
    _, alone = adapted(models[OneClass], name, images[:8], **changed, **binary)
    _, against = adapted(models[AgainstBackground], name, images[:8], **changed)
    for (expected, its), (probabilities, others) in zip(alone, against, strict=True):
        torch.testing.assert_close(probabilities[:, 1:], expected, rtol=0, atol=1e-9)
        assert others.keys() == its.keys()
        for key, values in its.items():
            assert others[key] == pytest.approx(values, rel=1e-6, abs=1e-12), key


@pytest.mark.parametrize("auxiliary", [name for name in OBJECTIVES.names() if name != "consistency"])
def test_every_objective_adapts_to_classes_that_exclude_each_other(models, images, auxiliary):
    _, results = adapted(models[Exclusive], "grata", images[:2], auxiliary=auxiliary)
    assert results[0][1]["loss_auxiliary"][0] > 0


@pytest.mark.parametrize("name", FORMED)
def test_the_entropy_of_each_class_on_its_own_is_refused(models, images, name):
    with pytest.raises(UserError, match=r"entropy_form=binary .*softmax.*positive"):
        adapted(models[Exclusive], name, images[:2], entropy_form="binary")


def test_an_activation_that_the_logits_cannot_have_is_refused(models):
    model = build(OneClass)
    for activation, sentence in (("softmax", "a channel of its own"), ("sofmax", "one of sigmoid, softmax")):
        model.activation = activation
        with pytest.raises(UserError, match=sentence):
            AdaptableNetwork(model)
