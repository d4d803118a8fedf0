"""Cells of one method that differ in seeds and numbers share batches, and each leaves what it would have left alone."""

import json
import shutil

import pytest
import torch
import yaml

import tta_bench.__main__ as program
import tta_bench.cell as cell_module
from tiny_cells import configure, execute, folder, interrupted, numbers, rows, status, summary
from tta_bench.launch.packing import companions
from tta_bench.methods.base import METHODS, Method
from tta_bench.objectives.entropy import entropy

RATES = (1e-4, 1e-3, 1e-2)
GRATA = ("+method=grata", "method.learning_rate_function=linear"), ("+method=grata", "seed=[1,2]")


@pytest.fixture
def roots(tmp_path, trained):
    """Two copies of one's own."""
    return [shutil.copytree(trained, tmp_path / name) for name in ("packed", "alone")]


@pytest.fixture
def passes(monkeypatch, caplog):
    """How many cells of the method each pass along streams was for."""
    caplog.set_level("INFO", logger="tta_bench")
    seen, compute = [], cell_module.compute

    def spy(members, *rest):
        if members[0].config.called != "no_adapt":
            seen.append(len(members))
        return compute(members, *rest)

    monkeypatch.setattr(cell_module, "compute", spy)
    return seen


@pytest.fixture
def batches(monkeypatch):
    """How many images each step was of."""
    seen, step = [], Method.step
    monkeypatch.setattr(Method, "step", lambda self, images, keys: seen.append(len(images)) or step(self, images, keys))
    return seen


def runs(root, pack, *words):
    return [configure(root, "+method=tent", f"launch.pack={pack}", f"method.learning_rate={r}", *words) for r in RATES]


def sweep(configs):
    """Run them as one command does; returns exit codes."""
    program._outcomes.clear()
    program._run_here(configs)
    return program._outcomes[:]


def assert_same(packed, alone, seed=0):
    assert folder(packed, seed).name == folder(alone, seed).name
    for own, expected in zip(numbers(packed, seed), numbers(alone, seed), strict=True):
        assert own.keys() == expected.keys()
        for key, value in own.items():
            try:
                assert float(value) == pytest.approx(float(expected[key]), rel=1e-5, abs=1e-6, nan_ok=True), key
            except ValueError:
                assert value == expected[key]
    content, other = summary(packed, seed), summary(alone, seed)
    for key in ("forwards_per_image", "backwards_per_image", "skipped_updates", "code", "dice"):
        assert content[key] == other[key], key
    assert content["cell"] == folder(packed, seed).name
    assert "packed" not in other
    assert yaml.safe_load((folder(packed, seed) / "config.yaml").read_text())["hash"] == folder(packed, seed).name
    masks, expected_masks = (folder(each, seed) / "predictions.npz" for each in (packed, alone))
    assert masks.read_bytes() == expected_masks.read_bytes()
    assert not (folder(packed, seed) / "snapshot.pt").exists()
    assert status(packed, seed)["status"] == "done"


@pytest.mark.parametrize(("reset", "fit"), [("target", 3), ("image", 1)])
def test_cells_that_share_batches_leave_what_they_would_have_left_alone(
    roots, passes, batches, monkeypatch, reset, fit
):
    """Also where memory is for fewer streams than there are cells."""
    adapt = METHODS.get("tent").adapt

    def limited(self, images, draws):
        if len(images) > fit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return adapt(self, images, draws)

    monkeypatch.setattr(METHODS.get("tent"), "adapt", limited)
    words = f"protocol.reset={reset}"
    packed, alone = runs(roots[0], True, words), runs(roots[1], "auto", words)
    sweep(packed)
    assert passes == [3]
    assert 3 in batches
    assert batches[-1] == fit
    seconds = {json.dumps([row["seconds"] for row in rows(config)]) for config in packed}
    assert (len(seconds) == 1) == (fit == 3), "the same steps"
    batches.clear()
    sweep(alone)
    assert passes == [3, 1, 1, 1]
    assert batches[-1] == min(fit, 2), "its own two streams"
    for each, expected in zip(packed, alone, strict=True):
        assert_same(each, expected)
        assert summary(each)["packed"] == 3
    assert len({json.dumps(numbers(config)) for config in packed}) == 3


def test_a_function_and_seeds_of_their_own(roots, passes):
    packed, alone = (
        [configure(root, *words, f"launch.pack={pack}") for words in GRATA]
        for root, pack in zip(roots, ("true", "false"), strict=True)
    )
    sweep(packed)
    assert passes == [3]
    sweep(alone)
    for config, expected, seeds in zip(packed, alone, ([0], [1, 2]), strict=True):
        for seed in seeds:
            assert_same(config, expected, seed)


def test_one_that_is_finished_is_no_member_and_others_go_on(roots, passes, batches, caplog):
    packed, alone = (runs(root, pack) for root, pack in zip(roots, (True, False), strict=True))
    execute(packed[1])
    with interrupted(after=3):
        sweep(packed)
    assert passes == [1, 2]
    assert [status(config)["status"] for config in packed] == ["interrupted", "done", "interrupted"]
    batches.clear()
    sweep(packed)
    assert len(batches) < 8, "the first steps are not made again"
    assert passes == [1, 2, 2]
    assert "going on after" in caplog.text
    sweep(alone)
    for each, expected in zip(packed, alone, strict=True):
        assert_same(each, expected)


def test_cells_that_cannot_share_batches_go_one_by_one(roots, monkeypatch, caplog):
    packed = runs(roots[0], True)
    adapt = METHODS.get("tent").adapt

    def fails(self, images, draws):
        if len(images) > 2 or self.options.learning_rate == RATES[1]:
            raise RuntimeError("of this rate")
        return adapt(self, images, draws)

    monkeypatch.setattr(METHODS.get("tent"), "adapt", fails)
    assert sweep(packed) == [0, program.CRASH, 0]
    assert "3 cells could not share batches, and go one by one (of this rate)" in caplog.text
    assert [status(config)["status"] for config in packed] == ["done", "failed", "done"]
    assert not any("packed" in summary(config) for config in packed[::2])


def test_a_method_that_reads_the_options_of_one_stream_for_all_shares_no_batch(roots, monkeypatch, caplog):
    """Its cells would have the numbers of the first one."""

    def naive(self, images, draws):
        form = self.options.entropy_form
        losses, gradient = self.gradient(
            lambda network: entropy(network, images, draws, entropy_form=form), self.theta(len(images))
        )
        rate = torch.full_like(losses, self.options.learning_rate)
        return {"loss_entropy": losses, "lr": rate, "skipped": self.state.step(gradient, rate, losses)}

    monkeypatch.setattr(METHODS.get("tent"), "adapt", naive)
    packed, alone = runs(roots[0], True), runs(roots[1], False)
    assert sweep(packed) == [0, 0, 0]
    assert "3 cells could not share batches, and go one by one (Tent reads options.learning_rate" in caplog.text
    sweep(alone)
    for each, expected, rate in zip(packed, alone, RATES, strict=True):
        assert_same(each, expected)
        assert [float(row["lr"]) for row in rows(each)] == pytest.approx([rate] * len(rows(each)))


def test_only_what_differs_in_such_options_is_beside(tmp_path, monkeypatch):
    def beside(*rows):
        return [len(each) for each in companions([configure(tmp_path, "+method=tent", *words) for words in rows])]

    rates = [(f"method.learning_rate={k}e-4",) for k in range(1, 6)]
    assert beside(*rates) == [4, 0, 0, 0, 0]
    assert beside(rates[0], (*rates[1], "protocol.steps=2"), rates[2]) == [1, 0, 0]
    assert beside(rates[0], (*rates[1], "method.entropy_form=binary")) == [0, 0]
    assert beside(*[(*words, "launch.pack=false") for words in rates]) == [0] * 5
    assert beside(*[(*words, "force=true") for words in rates]) == [0] * 5
    assert beside(("+method=bn_only",), ("+method=bn_only", "seed=1")) == [0, 0], "it takes no option of every stream"
    monkeypatch.setattr("tta_bench.launch.packing.MOST_CELLS", 2)
    assert beside(*rates) == [1, 0, 1, 0, 0]
