"""CBMT's balance and its teacher, against numbers worked out by hand and a plain loop."""

import copy
from math import log

import pytest
import torch
import torch.nn.functional as F
from test_dpl import system_of

from tta_bench.offline.cbmt import balance
from tta_bench.offline.corruption import corrupt


def test_the_balance_is_that_of_the_unsure_pixels_of_both_sides():
    probability = torch.tensor([0.8, 0.9, 0.94, 0.96, 0.3, 0.5, 0.14, 0.16, 0.75])
    inside = -(log(0.8) + log(0.9) + log(0.94)) / 3
    outside = -(log(0.7) + log(0.5) + log(0.84)) / 3
    assert balance(probability) == pytest.approx(inside / outside, rel=1e-6)
    for lacking in (probability[:4], probability[4:], probability[3:4], probability[:0]):
        assert balance(lacking) == 1.0


def test_an_epoch_is_that_of_a_plain_loop(model):
    system = system_of("cbmt", model, learning_rate=0.01, epochs=2, batch_size=2)
    images = system.access.target_images.batch([0, 1, 2])
    student, teacher = copy.deepcopy(model), copy.deepcopy(model)
    optimizer = torch.optim.Adam(student.parameters(), betas=(0.9, 0.99))
    with torch.no_grad():
        bank = {k: torch.sigmoid(model(images[part]))[i, 1] for part in ([0, 1], [2]) for i, k in enumerate(part)}
    for epoch in range(2):
        weight = balance(torch.stack([bank[k] for k in range(3)]))
        optimizer.param_groups[0]["lr"] = 0.01 * 0.9**epoch
        student.train()
        teacher.train()
        for index, places in enumerate(system.target_batches(epoch)):
            with torch.no_grad():
                probability = torch.sigmoid(teacher(images[places]))
            bank |= {place: probability[i, 1] for i, place in enumerate(places)}
            corrupted = corrupt(images[places], system.generator("batch", epoch, index))
            labels = (probability > 0.75).float()
            weights = torch.ones_like(labels)
            weights[:, 1] += (weight - 1) * (1 - labels[:, 1])
            losses = F.binary_cross_entropy_with_logits(student(corrupted), labels, reduction="none")
            optimizer.zero_grad()
            ((losses * weights).sum() / weights.sum()).backward()
            optimizer.step()
            with torch.no_grad():
                for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                    old.copy_(0.98 * old + 0.02 * new)
        told = system.epoch(epoch)
        assert told["weight"] == pytest.approx(weight, rel=1e-5)
        assert told["lr"] == pytest.approx(0.01 * 0.9**epoch)
    made = system.adapted().state_dict()
    for key, value in teacher.state_dict().items():
        torch.testing.assert_close(made[key], value, rtol=1e-3, atol=2e-4)
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, made[key])]
    assert any(key.endswith("running_mean") for key in moved), "the teacher's statistics are those of what it is shown"
    student_mean = next(key for key in moved if key.endswith("running_mean"))
    assert not torch.equal(made[student_mean], system.model.state_dict()[student_mean])
