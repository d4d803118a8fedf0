"""What objectives and methods compute of three classes that exclude each other, by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from small_networks import exclusive
from tta_bench.methods.cotta import certainty
from tta_bench.methods.diga import DIGA, Evidence, Prototypes, confident_sides
from tta_bench.methods.dltta import discrepancy
from tta_bench.methods.domain_adaptor import generalised_entropy
from tta_bench.methods.memo import marginal_entropy
from tta_bench.methods.options import default_options
from tta_bench.objectives.consistency import pseudo_label
from tta_bench.objectives.entropy import entropy
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import logit_of_mixture, masks, targets

A, B = (0.5, 0.25, 0.25), (0.25, 0.5, 0.25)


def logits_of(*probabilities):
    """Of images of one pixel each, ``[N, 3, 1, 1]``."""
    return torch.tensor(probabilities, dtype=torch.float64).log()[:, :, None, None]


def pixels(*probabilities):
    """Of one image ``[1, 3, 1, N]``."""
    return logits_of(*probabilities).permute(3, 1, 2, 0)


def test_the_entropy_is_that_over_the_classes():
    network = exclusive(lambda images: pixels(A, (1 / 3, 1 / 3, 1 / 3)))
    loss = entropy(network, torch.zeros(1, 3, 1, 2), Draws([]), entropy_form="positive")
    assert loss.item() == pytest.approx((1.5 * math.log(2) + math.log(3)) / 2)  # a mean over pixels alone


def test_the_pseudo_label_and_the_marginal_entropy_average_probabilities():
    network, image, views = exclusive(lambda images: logits_of(A, B)), torch.zeros(1, 3, 1, 1), ["identity"] * 2
    mean = (0.375, 0.375, 0.25)
    assert pseudo_label(network, image, views).flatten().tolist() == pytest.approx(mean)
    expected = -sum(p * math.log(p) for p in mean)
    assert marginal_entropy(network, image, views).item() == pytest.approx(expected)


def test_the_discrepancy_sums_over_classes_and_averages_over_pixels():
    # (1/4 ln 2 + 1/4 ln 2) / 2 at the first pixel, nothing at the second.
    of_two = discrepancy(pixels(A, A)[0], pixels(B, A)[0], "softmax")
    assert of_two.item() == pytest.approx(math.log(2) / 8)
    saturated = 50 * torch.eye(3, dtype=torch.float64)[:2, :, None]
    assert discrepancy(*saturated[..., None], "softmax").isfinite()


def test_the_certainty_is_the_largest_probability():
    assert certainty(pixels(A, (0.1, 0.1, 0.8)).exp(), "softmax").flatten().tolist() == pytest.approx([0.5, 0.8])


@pytest.mark.parametrize("temperature", ["pixel", "image"])
def test_the_generalised_entropy_takes_its_temperature_over_the_classes(temperature):
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64).T[None, :, None]  # two pixels
    centred = torch.tensor([-1.0, 0.0, 1.0]).double()
    if temperature == "pixel":  # the standard deviation is 1 and 0, the latter kept at the smallest
        p = torch.softmax(centred / 2, 0)
        expected = (4 * -(p * p.log()).sum() + 1e-6 * math.log(3)) / 2
    else:  # differences between classes: (1, 0), (1, 0) and (2, 0), of variances 1/2, 1/2 and 2
        square = 4 * torch.tensor((0.5 + 0.5 + 2) / 3).double()
        p = torch.softmax(centred / square.sqrt(), 0)
        expected = square * (-(p * p.log()).sum() + math.log(3)) / 2
    assert generalised_entropy(logits, temperature, "softmax").item() == pytest.approx(expected.item())


def test_prototypes_of_diga_are_those_of_the_classes_that_are_there():
    assert confident_sides(pixels((0.95, 0.05, 0), A), 0.9, "softmax").int().squeeze().T.tolist() == [
        [1, 0, 0],
        [0] * 3,
    ]
    logits = pixels((0.2, 0.2, 0.6))
    vectors = torch.tensor([[0.0, 1.0], [0.0, 2.0], [5.0, 5.0]]).double()[None, None]
    diga = SimpleNamespace(options=default_options("diga"), network=SimpleNamespace(activation="softmax"))

    def by_prototypes(*present):
        prototypes = Prototypes(vectors, torch.tensor(present)[None, None])
        evidence = Evidence(torch.zeros(1, 2, 1, 1).double(), logits, prototypes, torch.zeros(1))
        return torch.softmax(DIGA._prototype_logits(diga, prototypes, evidence), 1).flatten().tolist()

    nearer = 1 / (1 + math.exp(-1))  # distances 1 and 2
    assert by_prototypes(True, True, False) == pytest.approx([nearer, 1 - nearer, 0])
    assert by_prototypes(True, False, False) == pytest.approx([0.2, 0.2, 0.6])
    mixed = logit_of_mixture([logits_of(A), logits_of(B)], (0.75, 0.25), "softmax")
    assert mixed.exp().flatten().tolist() == pytest.approx([0.4375, 0.3125, 0.25])


def test_masks_and_targets_leave_the_background_out_and_put_it_first():
    predicted = masks(pixels(A, B, (0.1, 0.2, 0.7)), "softmax", threshold=0.9)
    assert predicted.int().squeeze().T.tolist() == [[0, 0], [1, 0], [0, 1]]
    assert targets(predicted, "softmax").int().squeeze().T.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
