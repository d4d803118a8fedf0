"""SpotTUNet: draws of the policy, its loss, and an adapted model that is used as any other."""

import copy
from dataclasses import replace

import pytest
import torch
from test_stage import options_of
from torch import nn

from discs import discs
from small_networks import SmallNet, build
from tiny_cells import configure, execute, numbers, summary
from tta_bench.adaptation.provenance import code_of, system_code
from tta_bench.cli.checkpoint_verify import verify
from tta_bench.errors import UserError
from tta_bench.models.checkpoint import load_checkpoint
from tta_bench.models.spottuned import SpotTuned
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.spottunet import gumbel_choice, spot_tuned
from tta_bench.ops.preprocessing import PAPER

SHORT = {"epochs": 2, "steps": 2, "batch_size": 2}


def system_of(model, **changes):
    kind = SYSTEMS.get("spottunet")
    access = Access(kind.card, Grounds(discs("target"), range(4), 2, None, PAPER, 0))
    return kind(copy.deepcopy(model), access, replace(options_of("spottunet"), **SHORT | changes), 0)


@pytest.fixture
def small():
    return build(SmallNet).float()


def test_draws_have_the_probabilities_of_the_policy_and_the_gradient_of_the_noisy_softmax():
    logits = torch.tensor([0.4, -0.9]).expand(20000, 2)
    drawn = gumbel_choice(logits, 0.1, torch.Generator().manual_seed(0))
    assert {*drawn.tolist()} == {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(torch.softmax(logits[0], 0)[0].item(), abs=0.01)
    wanted = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    noise = -torch.empty(5, 2).exponential_(generator=torch.Generator().manual_seed(2)).log()
    difference = ((wanted + noise) @ torch.tensor([1.0, -1.0]) / 2.0).detach()
    choice = gumbel_choice(wanted, 2.0, torch.Generator().manual_seed(2))
    assert torch.equal(choice, (difference >= 0).float())
    (gradient,) = torch.autograd.grad(choice.sum(), wanted)
    slope = torch.sigmoid(difference) * torch.sigmoid(-difference) / 2.0
    assert torch.allclose(gradient, torch.stack([slope, -slope], 1), atol=1e-6)


def test_the_weight_counts_fine_tuned_layers_and_a_large_one_freezes_them(small):
    system = system_of(small, weight=0.0, epochs=4, steps=4)
    generator = torch.Generator()
    without = system.loss([0, 1], generator.manual_seed(3)).item()
    system.options = replace(system.options, weight=2.0)
    fine_tuned = (1 - system.shares[0]) * len(system.model.layers)
    assert system.loss([0, 1], generator.manual_seed(3)).item() == pytest.approx(without + 2 * fine_tuned.item(), 1e-5)
    system.options = replace(system.options, weight=5.0)
    told = [system.epoch(number) for number in range(3)]
    assert told[-1]["frozen"] > 0.9 > 1 - fine_tuned / len(system.model.layers)


def test_it_trains_one_copy_and_the_policy_alone(small):
    system = system_of(small, epochs=4)
    before = copy.deepcopy(system.model.state_dict())
    assert (system.optimizer.param_groups[0]["lr"], system.policy_optimizer.param_groups[0]["lr"]) == (1e-3, 1e-2)
    system.epoch(3)  # the last quarter
    assert system.policy_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    moved = {name for name, value in system.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in moved if ".tuned." not in name and not name.startswith("policy.")} == set()
    assert any(name.startswith("policy.") for name in moved)
    assert {name for name in before if name.endswith(".tuned.running_mean")} <= moved
    assert any(name.endswith("0.tuned.weight") for name in moved)


def test_networks_of_which_it_cannot_make_two_are_refused(small):
    image = torch.rand(1, 3, 64, 64)
    twofold = spot_tuned(copy.deepcopy(small), image, 0)
    with pytest.raises(UserError, match="is one of adapt=spottunet already"):
        spot_tuned(twofold, image, 0)
    small.categorical = [nn.Identity()]
    with pytest.raises(UserError, match=r"model\.norm=catenorm runs twice"):
        spot_tuned(small, image, 0)


def test_an_adapted_model_is_loaded_verified_and_adapted_further(tmp_path):
    words = ("adapt=spottunet", "adapt.labels=2", *(f"adapt.{key}={value}" for key, value in SHORT.items()))
    root, common = tmp_path / "results", ("target=A", "protocol.evaluation=held_out")
    config = configure(root, "method=no_adapt", *common, *words)
    execute(config)
    told = summary(config)
    assert told["method"] == "spottunet"
    (adapted,) = root.glob("adapted_models/*/model.ckpt")
    (source,) = root.glob("source_models/*/model.ckpt")
    network = load_checkpoint(adapted, config).model
    assert isinstance(network, SpotTuned)
    images = torch.rand(2, 3, 64, 64)
    frozen = network.chosen(images, torch.ones(2, len(network.layers)))
    assert torch.equal(frozen, load_checkpoint(source, config).model(images))
    assert f"{len(network.layers)} layers twice and a policy" in verify(adapted)
    given = configure(root, "method=no_adapt", *common, f"checkpoint={adapted}")
    execute(given)
    values = [[{k: v for k, v in row.items() if k != "method"} for row in numbers(each)] for each in (given, config)]
    assert values[0] == values[1]
    of_copies = "tta_bench.models.spottuned"
    assert of_copies in summary(given)["code_modules"]
    both = [configure(root, "method=tent", *common, "adapt=adabn", f"checkpoint={each}") for each in (adapted, source)]
    assert [of_copies in code_of(each)["code_modules"] for each in both] == [True, False]
    assert system_code(both[0]) != system_code(both[1]), "adapting it further runs that code, too"
    further = configure(root, "method=tent", *common, *words)
    execute(further)
    assert summary(further)["method"] == "spottunet + tent"
    assert numbers(further) != numbers(config)
    with pytest.raises(UserError, match="has two of each"):
        execute(configure(root, "method=grad_cl", *common, *words))
