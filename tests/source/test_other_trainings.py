"""Trainings by AvaGrad, of a network that runs twice, and with recoloured copies: resumable, logged, loaded."""

import csv

import pytest
import torch
from pydantic import ValidationError
from test_followed_training import follower
from test_train import FIRST, KilledError, assert_same_bits, kill_in_epoch, weights

import tta_bench.source.callbacks as callbacks
from tta_bench.cell import Cell
from tta_bench.launch.check import check
from tta_bench.launch.experiments import plan
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import load_checkpoint
from tta_bench.source.loss import branch_loss
from tta_bench.source.module import SourceTraining
from tta_bench.source.train import cache_key, source_model
from tta_bench.source.two_passes import TwoPassTraining

AVAGRAD = {"optimizer": "avagrad", "learning_rate": 1.0, "epsilon": 0.1, "bias_correction": True}
CATENORM = {"norm": "catenorm", "norm_blocks": 2}
STAIN = {"branches": ["regeneration"]}
WAYS = {
    "avagrad": ({}, AVAGRAD),
    "catenorm": (CATENORM, {}),
    "stain": (STAIN, {"consistency": 10.0, "branch_weights": {"regeneration": 0.1}}),
    "all": (CATENORM | STAIN, AVAGRAD | {"consistency": 1.0}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_training_goes_on_to_the_same_weights_and_tells_how_far_each_layer_moved(
    make_config, make_domain, tmp_path, monkeypatch, way
):
    monkeypatch.setattr(callbacks, "_PARTIAL_SECONDS", 0.0)
    model, training = WAYS[way]
    config, domain = make_config(model=model, **{**training}), make_domain(6)
    follow, told = follower()
    whole = source_model(config, domain, tmp_path / "whole", follow)
    kind = TwoPassTraining if "norm" in model else SourceTraining
    with kill_in_epoch(2, kind), pytest.raises(KilledError):
        source_model(config, domain, tmp_path / "killed")
    resumed = source_model(config, domain, tmp_path / "killed")
    assert_same_bits(weights(whole), weights(resumed))
    log = whole.path.with_name("layer_updates.csv").read_text()
    assert resumed.path.with_name("layer_updates.csv").read_text() == log
    rows = list(csv.DictReader(log.splitlines()))
    first = [row for row in rows if f"{row['layer']}.weight" == FIRST]
    assert [row["epoch"] for row in first] == ["1", "2", "3"]
    assert all(float(row["update"]) > 0 for row in first)
    last = {row["layer"]: float(row["update"]) for row in rows if row["epoch"] == "3"}
    curves = {key: value for key, value in told[0][1][-1][1].items() if key.startswith("update/")}
    assert curves == {f"update/{layer}": pytest.approx(value, rel=1e-5) for layer, value in last.items()}


def test_the_key_of_a_source_model_holds_what_is_in_use_alone(make_config, make_domain):
    domain = make_domain()
    key = cache_key(make_config(), domain)
    assert cache_key(make_config(model={"norm": None, "norm_blocks": 1}), domain) == key
    assert cache_key(make_config(epsilon=0.1, bias_correction=True, consistency=None), domain) == key
    others = [make_config(**{**training}, model=model) for model, training in WAYS.values()]
    others += [make_config(consistency=0.0), make_config(**AVAGRAD | {"epsilon": 1.0})]
    assert len({key, *(cache_key(other, domain) for other in others)}) == len(others) + 1
    for wrong in (AVAGRAD | {"epsilon": None}, {"model": {"norm": "catenorm"}}):
        with pytest.raises(ValidationError, match="give"):
            make_config(**wrong)


def test_the_first_pass_is_trained_alone_then_both_with_a_step_of_their_own(
    make_config, make_domain, tmp_path, monkeypatch
):
    config = make_config(model=CATENORM, epochs=2, holdout=0)
    seen, learn = [], TwoPassTraining._learn

    def noted(self, images, labels, prediction=None, plain=None):
        before = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        made = learn(self, images, labels, prediction, plain)
        moved = {name for name, value in self.model.named_parameters() if not torch.equal(value, before[name])}
        seen.append((self.current_epoch, prediction is not None, prediction is None or not prediction.requires_grad))
        part = {name.rpartition(".")[0].rpartition(".")[2] for name in moved if ".first." in name or ".shared" in name}
        assert part == ({"shared"} if prediction is not None else {"first"})
        assert "head.0.weight" in moved
        return made

    monkeypatch.setattr(TwoPassTraining, "_learn", noted)
    source_model(config, make_domain(4), tmp_path)
    assert seen == [(0, False, True)] * 2 + [(1, False, True), (1, True, True)] * 2


def test_a_checkpoint_of_another_norm_is_refused_and_the_branch_may_be_left_in_the_file(
    make_config, make_domain, tmp_path
):
    config = make_config(model=CATENORM | STAIN, epochs=1)
    source = source_model(config, make_domain(), tmp_path)
    images = torch.rand(2, 3, 64, 64)
    without = load_checkpoint(source.path, make_config(model=CATENORM))
    assert not without.model.branches
    assert torch.equal(without.model(images), source.model(images))
    for other, sentence in (({}, "its norm is catenorm"), (CATENORM | {"norm_blocks": 1}, "its norm_blocks is 2")):
        with pytest.raises(Exception, match=sentence):
            load_checkpoint(source.path, make_config(model=other))


def test_the_recipe_is_the_row_of_the_table():
    rows = {each.row: each.cell for each in plan("source_side", ["source=D"]).cells}
    (recipe,) = check(["+method=tent", "source=D", "training=stain_aglr", "model.branches=[regeneration]"])
    assert recipe.training.consistency == 10
    assert recipe.training.branch_weights["regeneration"] == 0.1
    assert Cell.of(recipe, 0).folder().hash == rows["stain_aglr | tent"].folder().hash


def test_consistency_and_regeneration_teach_what_they_should(make_config):
    config = make_config(model=STAIN, consistency=10.0)
    module = SourceTraining(build_model(config.model, 2), config.training)
    images, labels = torch.rand(2, 3, 64, 64), torch.rand(2, 2, 64, 64) > 0.5
    logits = module.eval()(torch.cat([images, images]))
    both = torch.cat([labels, labels])
    module.training_config = make_config(consistency=0.0).training
    plain = module.segmentation(logits, both).item()
    module.training_config = config.training
    assert module.segmentation(logits, both).item() == pytest.approx(plain, abs=1e-6), "copies are the images"
    branch_loss("regeneration", module.model.train(), images).backward()
    reached = {name.partition(".")[0] for name, value in module.model.named_parameters() if value.grad is not None}
    assert reached == {"encoder", "branches"}
