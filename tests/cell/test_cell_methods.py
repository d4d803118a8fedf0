"""What a method sees of a cell, and what its card and diagnostics become."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny_cells import configure, execute, rows, summary
from tta_bench.adaptation.runner import AdaptationModule
from tta_bench.data.domain import Domain
from tta_bench.methods.base import METHODS, Card, Method


def _tensors(item, seen):
    """Every tensor and array that can be reached from ``item``."""
    if id(item) in seen:
        return
    seen[id(item)] = item
    if isinstance(item, Tensor | np.ndarray):
        yield item
    elif isinstance(item, dict):
        for value in item.values():
            yield from _tensors(value, seen)
    elif isinstance(item, list | tuple | set):
        for value in item:
            yield from _tensors(value, seen)
    elif is_dataclass(item):
        for field in fields(item):
            yield from _tensors(getattr(item, field.name), seen)
    for value in vars(item).values() if hasattr(item, "__dict__") else ():
        yield from _tensors(value, seen)


def test_from_its_batch_a_method_reaches_the_images_and_nothing_else(root, monkeypatch):
    reached, modes, step = [], [], AdaptationModule.test_step

    def spy(self, batch, batch_idx):
        reached.append(list(_tensors(batch, {})))
        modes.append((torch.is_inference_mode_enabled(), sorted(vars(batch))))
        assert not any(isinstance(item, Domain) for item in vars(batch).values())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(AdaptationModule, "test_step", spy)
    execute(configure(root, "+method=bn_only", "lockstep=1"))
    assert len(reached) == 2 * 8, "of the reference and of the method"
    assert all([tuple(item.shape) for item in batch] == [(1, 3, 64, 64)] for batch in reached)
    assert all(mode == (False, ["images", "keys", "places"]) for mode in modes)


def test_labels_change_the_score_and_no_prediction(root, monkeypatch):
    def predictions(config):
        outputs = []
        predict = METHODS.get("grata").predict

        def spy(self, images):
            logits = predict(self, images)
            outputs.append(logits.clone())
            return logits

        with monkeypatch.context() as patch:
            patch.setattr(METHODS.get("grata"), "predict", spy)
            execute(config)
        return torch.cat(outputs), [row["dice"] for row in rows(config)]

    config = configure(root, "force=true")
    logits, dice = predictions(config)
    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr(Domain, "truth", lambda self, index: torch.rand(2, 64, 64, generator=noise) < 0.5)
    noise_logits, noise_dice = predictions(config)
    assert torch.equal(logits, noise_logits)
    assert dice != noise_dice


def test_under_inference_mode_a_method_refuses_to_adapt(unet):
    from tta_bench.models.adaptable import AdaptableNetwork

    method = METHODS.get("tent")(AdaptableNetwork(unet))
    method.start(1)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode=False"):
        method.step(torch.rand(1, 3, 64, 64).double(), [])


def test_updates_that_are_not_finite_are_counted_in_the_summary(root, monkeypatch, caplog):
    tent = METHODS.get("tent")
    gradient = tent.gradient

    def broken(self, *args):
        losses, values = gradient(self, *args)
        return losses * float("nan"), values

    monkeypatch.setattr(tent, "gradient", broken)
    config = configure(root, "+method=tent")
    with caplog.at_level("WARNING", logger="tta_bench"):
        execute(config)
    assert summary(config)["skipped_updates"] == 8
    assert "8 updates were skipped" in caplog.text


def test_a_methods_own_card_and_columns_travel_to_the_files(root, monkeypatch):
    class Constant(Method):
        card = Card("nothing", "test image", False, False, 1, 0, "a test", "-")

        def adapt(self, images, draws):
            return {"brightness": images.mean(dim=(1, 2, 3))}

    monkeypatch.setitem(METHODS._items, "bn_only", Constant)
    config = configure(root, "+method=bn_only")
    execute(config)
    assert all(0 < float(row["brightness"]) < 1 for row in rows(config))
