"""Fine-tuning on labelled target images: schedules, optimisers and batches against closed forms."""

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_stage import options_of, tiny_options
from torch import nn

from discs import discs, gathered_of
from tta_bench.errors import UserError
from tta_bench.models.checkpoint.optimizer import OPTIMIZER, read_optimizer, save_optimizer
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.fine_tuning import cross_entropy, drawn, first_layers, learning_rate
from tta_bench.offline.mmtl import target_share
from tta_bench.offline.octl import continued
from tta_bench.ops.preprocessing import PAPER

FINEST = tuple(f"encoder.model.{name}." for name in ("conv1", "bn1", "layer1"))


def system_of(name, model, labels=2, source_indices=None, **changes):
    kind = SYSTEMS.get(name)
    target, source = discs("target", 4), discs("source", 5)
    grounds = Grounds(target, range(4), labels, source, PAPER, 0, source_indices)
    return kind(copy.deepcopy(model), Access(kind.card, grounds), replace(tiny_options(name), **changes), 0)


def trained(name, model, epochs=1, **changes):
    system = system_of(name, model, **changes)
    for number in range(epochs):
        system.epoch(number)
    return dict(system.adapted().named_parameters())


def test_the_share_of_the_target_in_a_batch_is_that_of_the_paper_and_of_its_code():
    linear = [target_share(epoch, 60, 16, "linear") for epoch in range(60)]
    assert linear.index(1) == 4
    assert linear[-1] == 15
    assert sum(linear) / 60 / 16 == pytest.approx(0.4625, abs=1e-3)
    staircase = [target_share(epoch, 60, 16, "staircase") for epoch in range(60)]
    assert staircase[:5] == [1, 1, 1, 1, 2]
    assert (min(staircase), max(staircase), sum(staircase) / 60) == (1, 15, 8.0)


def test_batches_of_mmtl_have_the_schedules_composition_and_no_held_out_source_image(model):
    system = system_of("mmtl", model, epochs=8, batch_size=8, source_indices=[0, 2, 4])
    seen = {**{tuple(system.access.target_labels.images[k].flatten()[:200].tolist()): "target" for k in range(2)}}
    seen |= {tuple(system.access.source_images[k].flatten()[:200].tolist()): f"source {k}" for k in range(3)}
    for number in range(8):
        for places in system.steps(number):
            assert len(places) == number
            images, labels = system.batch(places, torch.Generator().manual_seed(number))
            found = Counter(seen[tuple(image.flatten()[:200].tolist())].split()[0] for image in images)
            assert (found["target"], found["source"]) == (number, 8 - number)
            assert len(labels) == 8
    assert system.access.source_images.names == ("source0", "source2", "source4")


def test_images_are_drawn_again_only_where_there_are_too_few():
    generator = torch.Generator().manual_seed(0)
    assert sorted(drawn(5, 5, generator)) == [0, 1, 2, 3, 4]
    assert drawn(5, 0, generator) == []
    many = drawn(2, 100, generator)
    assert (len(many), set(many)) == (100, {0, 1})


def test_the_learning_rate_falls_after_three_quarters():
    assert [learning_rate(1.0, epoch, 60) for epoch in (0, 44, 45, 59)] == [1.0, 1.0, 0.1, 0.1]


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_loss_is_the_cross_entropy(model, activation):
    model.activation = activation
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(2, 1, 8, 8, generator=generator) < 0.5
    logits = torch.randn(2, 1 + (activation == "softmax"), 8, 8, generator=generator)
    usual = nn.BCEWithLogitsLoss()(logits, labels.float()) if activation == "sigmoid" else None
    usual = nn.CrossEntropyLoss()(logits, labels[:, 0].long()) if usual is None else usual
    assert cross_entropy(model, logits, labels).item() == pytest.approx(usual.item(), abs=1e-6)


def test_the_first_layers_are_those_at_the_finest_scales(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    first = [names[id(each)] for each in first_layers(model.eval(), torch.rand(1, 3, 64, 64))]
    assert first == [name for name in names.values() if name.startswith(FINEST)]


def test_ftf_leaves_the_other_layers_alone(model):
    after = trained("ftf", model)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, after[name])}
    assert moved
    assert all(name.startswith(FINEST) for name in moved)


def test_l2sp_is_fta_without_a_weight_and_nearer_to_the_source_with_one(model):
    free, none, held = (
        trained("fta", model, 2, optimizer="sgd"),
        trained("l2sp", model, 2, optimizer="sgd", alpha=0.0),
        trained("l2sp", model, 2, optimizer="sgd", alpha=20.0),
    )
    assert all(torch.equal(free[name], none[name]) for name in free)

    def distance(after):
        return sum(((after[name] - value) ** 2).sum().item() for name, value in model.named_parameters())

    assert distance(held) < 0.9 * distance(free)
    system = system_of("l2sp", model, alpha=0.5)
    before = system.loss([0, 1], torch.Generator()).item()
    with torch.no_grad():
        next(system.model.parameters()).add_(0.0)
        system.start[-1] += 2.0
    added = 0.5 * 4.0 * system.start[-1].numel()
    assert system.loss([0, 1], torch.Generator()).item() == pytest.approx(before + added, rel=1e-5)


def test_octl_with_adam_is_the_closed_form():
    options = replace(options_of("octl"), learning_rate=0.01)
    theta, gradient, moment, square = 1.0, 0.3, 0.2, 0.05
    parameter = nn.Parameter(torch.tensor([theta], dtype=torch.float64))
    state = {"step": torch.tensor(9.0), "exp_avg": torch.tensor([moment]), "exp_avg_sq": torch.tensor([square])}
    optimizer = continued({"w": parameter}, {"w": state}, options)
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert optimizer.param_groups[0]["betas"] == (0.99, 0.999)
    for step in (101, 102, 103):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        moment, square = 0.99 * moment + 0.01 * gradient, 0.999 * square + 0.001 * gradient**2
        theta -= 0.01 * (moment / (1 - 0.99**step)) / ((square / (1 - 0.999**step)) ** 0.5 + 1e-8)
        assert parameter.item() == pytest.approx(theta, abs=1e-7)


def test_octl_from_nothing_is_adam_and_with_sgd_goes_on_from_the_buffer():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 3, generator=generator)

    def run(optimizer, parameter):
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        return parameter.detach()

    zero = {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    options = replace(options_of("octl"), steps_before=0)
    one, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([other], lr=options.learning_rate, betas=(0.99, 0.999))
    assert torch.equal(run(continued({"w": one}, {"w": zero}, options), one), run(adam, other))
    one, buffer, theta = nn.Parameter(torch.ones(3)), torch.tensor([0.5, -1.0, 2.0]), torch.ones(3)
    after = run(continued({"w": one}, {"w": {"momentum_buffer": buffer}}, options), one)
    for gradient in gradients:
        buffer = 0.99 * buffer + gradient
        theta = theta - options.learning_rate * buffer
    assert torch.allclose(after, theta, atol=1e-6)
    with pytest.raises(UserError, match=r"training\.momentum above 0"):
        continued({"w": one}, {"w": {"momentum_buffer": None}}, options)


def test_what_an_optimiser_has_gathered_comes_back_by_name(model, tmp_path):
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in list(model.parameters())[1:]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_optimizer(tmp_path / "model.ckpt", model, optimizer)
    back = read_optimizer(tmp_path / "model.ckpt")
    first, *others = dict(model.named_parameters())
    assert first not in back
    assert {*back} == {*others}
    assert all(
        torch.equal(back[n]["exp_avg"], optimizer.state[p]["exp_avg"]) for n, p in model.named_parameters() if n in back
    )
    (tmp_path / OPTIMIZER).unlink()
    with pytest.raises(UserError, match="is trained again"):
        read_optimizer(tmp_path / "model.ckpt")


def test_octl_of_a_model_steps_by_what_was_gathered(model, monkeypatch):
    gathered = gathered_of(model)
    monkeypatch.setattr("tta_bench.offline.access.read_optimizer", lambda path: gathered)
    kind = SYSTEMS.get("octl")
    access = Access(kind.card, Grounds(discs("target"), range(4), 2, None, PAPER, 0, checkpoint=Path("model.ckpt")))
    system = kind(copy.deepcopy(model), access, tiny_options("octl"), 0)
    for name, parameter in system.model.named_parameters():
        assert torch.equal(system.optimizer.state[parameter]["exp_avg"], gathered[name]["exp_avg"])
        assert system.optimizer.state[parameter]["step"] == 100
