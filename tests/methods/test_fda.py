"""Feather-light Fourier adaptation: donors, the mean over them, and the method that follows."""

import copy

import pytest
import torch

from small_networks import SmallNet, build, source_images, with_bank
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS, Protocol
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.bank import make_bank
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.spectrum import amplitudes, restyled

KEYS = [ImageKey(0, "B", "image")]
EXACT = {"rtol": 0, "atol": 1e-12}


def made(net, name="fda", protocol=None, kept="amplitudes_only", bank=None, **options):
    """A started method on a network with a bank of this kind."""
    net = copy.copy(net)
    net.bank = bank if bank is not None else make_bank(source_images(), 2.2, kept)
    options = {**options, "bank": kept} if name == "fda" else options
    kind, options = METHODS.get(name), default_options(name, **options)
    method = kind(AdaptableNetwork(net, kind.branches(options)), options, protocol)
    method.start(1)
    return method


def test_the_prediction_is_the_mean_over_the_images_in_the_style_of_each_donor(small_net, images):
    image, method = images[:1], made(small_net, donors=3)
    plain, low = made(small_net, "no_adapt"), amplitudes(source_images().float(), 2.2).double()
    distances = ((low + 1e-3).log() - (amplitudes(image, 2.2) + 1e-3).log()).flatten(1).norm(dim=1)
    styled = [restyled(image, low[k], 2.2, "real_clip") for k in distances.argsort()[:3]]
    expected = torch.stack([plain.predict(each).sigmoid() for each in styled]).mean(0)
    torch.testing.assert_close(method.step(image, KEYS).logits.sigmoid(), expected, rtol=0, atol=1e-9)


def test_donors_that_are_alike_are_one_donor(small_net, images):
    alike = make_bank(source_images()[:1].expand(7, -1, -1, -1), 2.2, "amplitudes_only")
    one, seven = (made(small_net, bank=alike, donors=n).step(images[:1], KEYS).logits for n in (1, 7))
    torch.testing.assert_close(seven, one, **EXACT)


@pytest.mark.parametrize("kind", ["amplitudes_only", "images"])
def test_the_donor_of_a_copy_of_a_source_image_is_that_image(small_net, kind):
    method = made(small_net, kept=kind)
    nearest = method._bank.nearest(source_images().float().double())
    assert nearest[:, 0].tolist() == list(range(8))
    assert nearest.shape == (8, 7)


def test_drawn_donors_are_others_for_every_image_and_the_same_in_every_run(small_net, images):
    def donors(seed):
        method, drawn = made(small_net, choice="random", donors=3), []
        for k in range(4):
            method.adapt(images[k : k + 1], Draws([ImageKey(seed, "B", f"{k}")]))
            drawn.append(method.drawn[0].tolist())
        return drawn

    assert donors(0) == donors(0)
    assert len({tuple(each) for each in donors(0)}) > 1
    assert donors(0) != donors(1)
    assert all(len(set(each)) == 3 for each in donors(0))
    options = default_options("fda", choice="random")
    assert METHODS.get("fda").is_stochastic(options) is True


@pytest.mark.parametrize("then", [name for name in METHODS.names() if METHODS.get(name).card.setting == "tta"])
def test_the_method_that_follows_sees_the_restyled_image_alone(small_net, images, then):
    """With one donor it is that method, run on images that were restyled before."""
    composed, alone = made(small_net, donors=1, then=then), made(small_net, then)
    low = composed._bank.amplitudes
    for k in range(2):
        image = images[k : k + 1]
        style = low[composed._bank.nearest(image)[0]]
        expected = alone.step(restyled(image, style, 2.2, "real_clip"), KEYS)
        found = composed.step(image, KEYS)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-9)
        assert found.diagnostics == expected.diagnostics
    assert (composed.backwards, composed.skipped) == (alone.backwards, alone.skipped)
    assert torch.equal(composed.theta(1), alone.theta(1))


def test_what_follows_goes_on_after_a_stop(small_net, images):
    first, second = (made(small_net, then="tent", choice="random") for _ in range(2))
    for k in range(2):
        first.step(images[k : k + 1], KEYS)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.step(images[2:3], KEYS).logits, second.step(images[2:3], KEYS).logits)


def test_all_options_of_what_follows_are_part_of_the_options():
    then = default_options("fda", then={"name": "grata", "learning_rate": 0.5}).then
    assert then["learning_rate"] == 0.5
    assert then["strong_augmentation"]["blur"]
    assert METHODS.get("fda").branches(default_options("fda", then="detta")) == ("denoising",)
    assert METHODS.get("fda").is_stochastic(default_options("fda", then="grata"))
    with pytest.raises(UserError, match=r"method\.then=fda needs a bank itself"):
        default_options("fda", then="fda")
    with pytest.raises(UserError, match="did you mean 'grata'"):
        default_options("fda", then="grat")


def test_a_bank_of_amplitudes_has_no_image_and_other_methods_have_no_bank(small_net, images):
    assert with_bank(copy.copy(small_net)).bank.thumbnails is None
    with pytest.raises(UserError, match="fda needs a bank of source images"):
        METHODS.get("fda")(AdaptableNetwork(build(SmallNet))).start(1)
    with pytest.raises(UserError, match=r"a radius of 2.2, too little for method.bank=amplitudes_only and method.rad"):
        made(small_net, radius=5)
    with pytest.raises(UserError, match=r"has amplitudes alone and a radius of 2.2, too little for method.bank=images"):
        made(small_net, kept="images", bank=make_bank(source_images(), 2.2, "amplitudes_only"))


def test_exporting_says_why_not(small_net):
    with pytest.raises(UserError, match="no plain network predicts alike"):
        made(small_net).deployed(0)


def test_with_a_method_that_always_starts_afresh_it_does_so_too(small_net):
    assert made(small_net, then="memo", protocol=Protocol()).protocol.episodic
