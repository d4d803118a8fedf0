"""The stage hands over what a card declares, keeps what it makes, and goes on after it was killed."""

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import tta_bench.records.snapshots as snapshots
from discs import discs, gathered_of
from tiny_cells import configure, execute, folder, numbers, rows, summary
from tta_bench.adaptation.provenance import system_code
from tta_bench.cell import Cell
from tta_bench.data.domain import Domain
from tta_bench.data.held_out import split
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.composition import composer
from tta_bench.launch.experiments import plan
from tta_bench.offline.access import NEEDS, Access, AccessError, Grounds
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.options import system_options
from tta_bench.ops.preprocessing import PAPER
from tta_bench.records.store import cell_hash
from tta_bench.report.checks import config_faults


class SpyMapping(dict):
    """A mapping that notes that it was read."""

    def __init__(self, content, log, name):
        super().__init__(content)
        self.log, self.name = log, name

    def __getitem__(self, key):
        self.log.add(self.name)
        return super().__getitem__(key)


class Spy(np.ndarray):
    """An array that notes that it was read."""

    log: set

    @classmethod
    def of(cls, array, log, name):
        spied = array.view(cls)
        spied.log, spied.name = log, name
        return spied

    def __array_finalize__(self, other):
        self.log, self.name = getattr(other, "log", set()), getattr(other, "name", "")

    def __getitem__(self, key):
        if not isinstance(key, slice):
            self.log.add(self.name)
        return super().__getitem__(key)


def importance_of(model):
    """How much each parameter matters: all alike."""
    return {name: torch.ones_like(each) for name, each in model.named_parameters()}


def options_of(name, **changes):
    with composer() as hydra:
        section = dict(hydra.compose([f"adapt={name}"]).adapt)
    return system_options(section | changes)


def tiny_options(name):
    options = options_of(name)
    short = {"epochs": 2, "batch_size": 2, "steps": 2, "source_batch_size": 2}
    return replace(options, **{key: value for key, value in short.items() if hasattr(options, key)})


@pytest.mark.parametrize("name", SYSTEMS.names())
def test_a_system_reads_what_its_card_declares_and_nothing_else(name, model, monkeypatch):
    log = set()
    gathered = SpyMapping(gathered_of(model), log, "source_optimiser")
    monkeypatch.setattr("tta_bench.offline.access.read_optimizer", lambda path: gathered)
    weights = SpyMapping(importance_of(model), log, "source_importance")
    monkeypatch.setattr("tta_bench.offline.access.read_beside", lambda path, name: weights)
    domains = []
    for role in ("source", "target"):
        domain = discs(role)
        images, masks = (
            Spy.of(array, log, f"{role}_{what}")
            for array, what in ((domain.images, "images"), (domain.masks, "labels"))
        )
        domains.append(replace(domain, images=images, masks=masks, truths=masks))
    source, target = domains
    kind = SYSTEMS.get(name)
    grounds = Grounds(target, range(len(target)), 2, source, PAPER, 0, checkpoint=Path("model.ckpt"))
    access = Access(kind.card, grounds)
    for need in NEEDS.keys() - {*kind.card.needs}:
        with pytest.raises(AccessError, match="is not among the needs"):
            getattr(access, need)
    log.clear()
    system = kind(copy.deepcopy(model), access, tiny_options(name), 0)
    for number in range(2):
        system.epoch(number)
    assert log - {"target_images"} == {*kind.card.needs} - {"target_images"}
    held = [value for part in vars(access).values() for value in vars(part).values() if isinstance(value, Domain)]
    if "labels" not in " ".join(kind.card.needs):
        assert all(domain.masks is domain.truths is None for domain in held)
        images = access.target_images
        with pytest.raises(UserError, match="has no masks"):
            images._domain.label(0)


@pytest.mark.parametrize("name", SYSTEMS.names())
def test_a_killed_stage_goes_on_to_the_same_weights(name, model, monkeypatch):
    """State saved after an epoch and taken over by a fresh system leads to the same bits, whatever came before."""
    monkeypatch.setattr("tta_bench.offline.access.read_optimizer", lambda path: gathered_of(model))
    monkeypatch.setattr("tta_bench.offline.access.read_beside", lambda path, name: importance_of(model))
    kind, options = SYSTEMS.get(name), tiny_options(name)
    target, source = discs("target"), discs("source")

    def fresh():
        torch.manual_seed(0)
        grounds = Grounds(target, range(len(target)), 2, source, PAPER, 0, checkpoint=Path("model.ckpt"))
        access = Access(kind.card, grounds)
        return kind(copy.deepcopy(model), access, options, 0)

    whole = fresh()
    whole.epoch(0)
    kept = copy.deepcopy(whole.state_dict())
    again = fresh()
    again.load_state_dict(kept)
    torch.manual_seed(1)
    assert whole.epoch(1) == again.epoch(1)
    before, after = whole.adapted().state_dict(), again.adapted().state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    images = Grounds(target, range(len(target)), 0, None, PAPER, 0).target_images().batch([0, 1])
    with torch.no_grad():
        assert not torch.equal(whole.adapted().eval()(images), model.eval()(images)), "it adapts something"


def test_labels_of_other_images_are_not_handed_over():
    labelled = Grounds(discs("target", 8), range(8), 2, None, PAPER, 0).target_labels()
    assert len(labelled.labels._domain.masks) == len(labelled.labels) == 2


def test_the_labelled_images_of_more_labels_are_those_of_fewer_and_more():
    target = discs("target", 8)
    chosen = [Grounds(target, range(8), k, None, PAPER, 3).target_labels().images.names for k in range(9)]
    assert [len(names) for names in chosen] == list(range(9))
    assert all({*fewer} < {*more} for fewer, more in pairwise(chosen))


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_split_depends_on_name_and_size_alone(count):
    use, test = split("A", count)
    assert sorted(use + test) == list(range(count))
    assert len(test) - len(use) in (0, 1)
    assert (use, test) == split("A", count)
    assert count < 40 or split("A", count) != split("B", count)


def test_cells_of_the_stage_from_the_command_line(tmp_path, monkeypatch):
    """An adapted model for each target, made once; named, compared, and left alone by other cells."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_SECONDS", 0)
    root = tmp_path / "results"
    words = ["adapt=adabn", "adapt.batch_size=2"]
    config = configure(root, "method=no_adapt", *words)
    printed = execute(config)
    assert "adabn" in printed
    models = {path: path.read_bytes() for path in (root / "adapted_models").glob("*/model.ckpt")}
    assert len(models) == len(config.target)
    told = summary(config)
    assert {each["path"] for each in told["adapted"].values()} == {*map(str, models)}
    assert told["method"] == "adabn"
    assert {row["method"] for row in rows(config)} == {"adabn"}
    plain = configure(root, "method=no_adapt")
    assert Cell(config, 0).reference() == Cell(plain, 0)
    assert "adapted" not in summary(plain)
    assert "adapt" not in Cell(plain, 0).identity()
    assert numbers(plain) != numbers(config)
    further = configure(root, "method=bn_only", *words)
    execute(further)
    assert summary(further)["method"] == "adabn + bn_only"
    assert {path: path.read_bytes() for path in (root / "adapted_models").glob("*/model.ckpt")} == models
    # Statistics of the test image alone are the same whatever those of the model are.
    of_image = configure(root, "method=bn_only")
    execute(of_image)
    strip = ("method",)
    same = [[{k: v for k, v in row.items() if k not in strip} for row in numbers(each)] for each in (further, of_image)]
    assert same[0] == same[1]
    # A model that is lost is made again, to the same bytes, and the cell stays.
    lost = next(iter(models))
    lost.unlink()
    before = (folder(config) / "summary.json").read_bytes()
    execute(config)
    assert lost.read_bytes() == models[lost]
    assert (folder(config) / "summary.json").read_bytes() == before


def test_held_out_rows_are_tested_on_the_same_images(tmp_path):
    root = tmp_path / "results"
    held = "protocol.evaluation=held_out"
    stage = configure(root, "method=no_adapt", "adapt=adabn", held)
    online = configure(root, "method=bn_only", held)
    for config in (stage, online):
        execute(config)
        tested = {(row["target"], int(row["index"])) for row in rows(config)}
        assert tested == {(name, index) for name in config.target for index in split(name, 4)[1]}
    every = configure(root, "method=bn_only")
    execute(every)
    of_all = {(row["target"], row["index"]): row["dice"] for row in rows(every)}
    assert all(row["dice"] == of_all[row["target"], row["index"]] for row in rows(online))
    before = [row["dice"] for row in rows(online)]
    both = configure(root, "method=bn_only", held, "metrics=[dice,iou]")
    execute(both)  # from the predictions
    direct = configure(tmp_path / "other", "method=bn_only", held, "metrics=[dice,iou]")
    execute(direct)
    assert [row["iou"] for row in rows(both)] == [row["iou"] for row in rows(direct)]
    assert [row["dice"] for row in rows(both)] == before


def test_the_two_ways_of_testing_are_never_in_one_table(tmp_path):
    configs = check(["+method=no_adapt,bn_only", "source=D", "protocol.evaluation=all,held_out"])
    cells = [(config.called, Cell(config, 0)) for config in configs]
    faults = config_faults(plan("first_look"), cells)
    assert any("protocol.evaluation" in fault for fault in faults)
    chosen = plan("first_look", ["protocol.evaluation=held_out"])
    assert any("protocol.evaluation" in fault for fault in config_faults(chosen, cells))


def test_what_the_stage_cannot_be_combined_with_is_refused():
    with pytest.raises(UserError, match=r"protocol.reset=never leads one state through all targets"):
        check(["+method=tent", "adapt=adabn", "source=D", "protocol.reset=never"], multirun=False)
    with pytest.raises(UserError, match=r"unknown adapt=adab: did you mean 'adabn'"):
        check(["+method=tent", "adapt=adab", "source=D"], multirun=False)
    with pytest.raises(UserError, match=r"unknown key 'adapt.batchsize'"):
        check(["+method=tent", "adapt=adabn", "source=D", "adapt.batchsize=2"], multirun=False)


def test_the_identity_has_the_options_and_the_code_of_the_system():
    first, second, plain = (
        check(["+method=tent", "source=D", *words], multirun=False)[0]
        for words in (["adapt=adabn"], ["adapt=adabn", "adapt.batch_size=3"], [])
    )
    hashes = {cell_hash(Cell(config, 0).identity()) for config in (first, second, plain)}
    assert len(hashes) == 3
    assert len({system_code(first.model_copy(update={"adapt": {"name": name}})) for name in SYSTEMS.names()}) == len(
        SYSTEMS.names()
    )


@pytest.mark.parametrize("name", SYSTEMS.names())
def test_every_system_has_a_page(name):
    text = (Path(__file__).parents[2] / f"docs/systems/{name}.md").read_text()
    assert text.startswith(f"# `{name}`")
    assert f"`{SYSTEMS.get(name).card.setting}`" in text
