import copy
import math

import pytest
import torch
from timm.layers import BatchNormAct2d

from tta_bench.models.build import build_model
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.source.loss import branch_loss, segmentation_loss, soft_dice_loss


def test_soft_dice_pools_over_batch_and_channels():
    probabilities = torch.tensor([1.0, 0.5, 0.0, 0.25]).reshape(2, 2, 1, 1)
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0]).reshape(2, 2, 1, 1)
    # 2 * 1.25 + 1 over 1.75 + 2 + 1
    assert soft_dice_loss(probabilities, labels).item() == pytest.approx(1 - 3.5 / 4.75)


def test_segmentation_loss_adds_cross_entropy():
    logits, labels = torch.zeros(1, 1, 2, 2), torch.tensor([[[[True, True], [False, False]]]])
    assert segmentation_loss(logits, labels).item() == pytest.approx(math.log(2) + 1 - 3 / 5)


def test_exclusive_classes_weigh_the_same_in_the_dice_loss_the_background_among_them():
    logits, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    labels[0, 0, 0, 0] = True  # three pixels of background, one of the first class, none of the second
    dice = [(2 * n / 3 + 1) / (4 / 3 + n + 1) for n in (3, 1, 0)]
    assert segmentation_loss(logits, labels, "softmax").item() == pytest.approx(math.log(3) + 1 - sum(dice) / 3)


def test_perfect_and_empty_predictions_cost_practically_nothing():
    empty = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    assert segmentation_loss(torch.full((2, 1, 8, 8), -50.0), empty).item() == pytest.approx(0, abs=1e-6)
    assert segmentation_loss(torch.full((2, 1, 8, 8), 50.0), ~empty).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", PRETEXT_TASKS.names())
def test_branch_loss_trains_its_branch_and_keeps_the_source_statistics(make_config, name):
    model = build_model(make_config().model.model_copy(update={"branches": (name,)}), 2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss = branch_loss(name, model, torch.rand(2, 3, 64, 64))
    loss.backward()
    assert loss.item() > 0
    assert all(parameter.grad is not None for parameter in model.branches[name].parameters())
    running = [key for key in before if key.startswith("encoder.") and "running" in key]
    assert running
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in running)
    assert all(layer.momentum == 0.1 for layer in model.modules() if hasattr(layer, "momentum"))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_branch_loss_keeps_the_statistics_of_every_kind_of_batch_norm(make_config, momentum):
    model = build_model(make_config().model.model_copy(update={"branches": ("denoising",)}), 2).train()
    for name, layer in list(model.encoder.named_modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            model.encoder.set_submodule(name, BatchNormAct2d(layer.num_features, momentum=momentum))
    model(torch.rand(2, 3, 64, 64))
    twin = copy.deepcopy(model)
    branch_loss("denoising", model, torch.rand(2, 3, 64, 64))
    images = torch.rand(2, 3, 64, 64)
    model(images), twin(images)  # the next plain batch weighs as much as it would have
    running = [key for key in model.state_dict() if key.startswith("encoder.") and "running" in key]
    assert all(torch.equal(model.state_dict()[key], twin.state_dict()[key]) for key in running)


def test_a_network_need_not_call_anything_its_encoder(small_net, images):
    model = copy.deepcopy(small_net).train()
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    branch_loss("denoising", model, images[:2])
    moved = {key for key, value in before.items() if not torch.equal(value, model.state_dict()[key])}
    assert moved == {key for key in before if key.startswith("branches.denoising.")}
    assert moved
