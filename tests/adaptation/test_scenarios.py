"""Scenarios: which images form a stream, when the state starts afresh, what a method may see and how many at a time."""

import csv

import pytest
import torch

from tta_bench.adaptation.scenarios.base import RESETS, SCENARIOS, Scenario, reset_names, scenario_of
from tta_bench.cell import Cell, run
from tta_bench.data.prepare import prepare
from tta_bench.data.streams import LockstepDataset, LockstepGroups, StreamImage, StreamImages
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists
from tta_bench.methods.base import METHODS, Card, Method

PASSES = [tuple(StreamImage(name, index, index) for index in range(count)) for name, count in (("A", 3), ("B", 2))]
SMALL = [
    *("source=B", "target=C,E", "data.limit=5", "data.image_size=64"),
    *("training.epochs=1", "training.min_steps=0", "model.encoder=tu-test_resnet"),
    "model.decoder_channels=[16,16,8,8,8]",
]


def test_the_three_words_stand_for_scenarios():
    assert {reset: type(scenario_of(reset)).__name__ for reset in RESETS} == {
        "target": "Online",
        "image": "Episodic",
        "never": "Continual",
    }
    assert reset_names() == ["target", "image", "never"]


@pytest.mark.parametrize("name", SCENARIOS.names())
def test_every_image_is_in_one_stream_and_the_scenario_says_what_it_is(name):
    scenario = SCENARIOS.get(name)()
    assert sorted(map(str, (place for stream in scenario.streams(PASSES) for place in stream))) == sorted(
        map(str, (place for each in PASSES for place in each))
    )
    assert scenario.sentence.endswith(".")
    assert scenario.batch >= 1


def test_the_three_scenarios():
    assert scenario_of("target").streams(PASSES) == scenario_of("image").streams(PASSES) == PASSES
    assert scenario_of("never").streams(PASSES) == [(*PASSES[0], *PASSES[1])]
    assert [scenario_of(reset).episodic for reset in RESETS] == [False, True, False]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


class Pairs(Scenario):
    """Of a plug-in: a stream per target, two images at a time."""

    sentence = "Two images at a time."
    batch = 2

    def streams(self, passes):
        return list(passes)


class Centred(Method):
    """Shifts images by the mean colour of all images of the stream; takes as many at a time as come."""

    card = Card("nothing", "test image", False, 1, 0, "a test", "-", takes_batches=True)

    def before_stream(self, images):
        self.mean = torch.stack([torch.stack([each[k] for k in range(len(each))]).mean() for each in images])

    def adapt(self, images, draws):
        assert len(draws.keys) == len(images)
        return {"mean": self.mean[: len(images)], "number": images.new_full((len(images),), images[0].numel() / 3)}

    def predict(self, images):
        return super().predict(images - 0.01 * self.mean[: len(images)].view(-1, *[1] * (images.ndim - 1)))


@pytest.fixture
def plugins(monkeypatch):
    SCENARIOS.names(), METHODS.names()
    monkeypatch.setitem(SCENARIOS._items, "pairs", Pairs)
    monkeypatch.setitem(METHODS._items, "bn_only", Centred)


def rows_of(root, *words):
    (config,) = check(quote_lists([*SMALL, f"results_root={root}", *words], multirun=False), multirun=False)
    list(run(config))
    with (Cell.of(config, 0).folder().path / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("plugins")
def test_a_method_that_sees_all_images_first_and_a_scenario_of_several_at_a_time(root):
    one_by_one = rows_of(root, "+method=bn_only")
    in_pairs = rows_of(root, "+method=bn_only", "protocol.reset=pairs", "lockstep=2")
    assert reset_names() == ["target", "image", "never", "pairs"]
    assert {row["mean"] for row in one_by_one if row["target"] == "C"} == {one_by_one[0]["mean"]}
    for one, pair in zip(one_by_one, in_pairs, strict=True):
        assert one["image"] == pair["image"]
        assert float(pair["mean"]) == pytest.approx(float(one["mean"]))
    assert [float(row["number"]) / 64**2 for row in one_by_one] == [1] * 10
    assert [float(row["number"]) / 64**2 for row in in_pairs] == [2, 2, 2, 2, 1] * 2


@pytest.mark.usefixtures("plugins")
def test_who_takes_one_image_at_a_time_is_refused_before_any_work():
    with pytest.raises(UserError) as refused:
        check(["+method=tent", "source=D", "protocol.reset=pairs", "diagnostics.empirical_gradient=true"])
    first, second = refused.value.faults
    assert first == "protocol.reset=pairs shows 2 images at a time, and method=tent takes one: choose another of them"
    assert "empirical_gradient" in second


def test_streams_side_by_side_that_are_shown_in_batches_are_equally_long():
    streams = [tuple(StreamImage(name, k, k) for k in range(n)) for name, n in (("A", 5), ("B", 3), ("C", 5))]
    assert [[len(s) for s in group] for group in LockstepGroups(streams, 3)] == [[5, 5, 3]]
    assert [[len(s) for s in group] for group in LockstepGroups(streams, 3, batch=2)] == [[5, 5], [3]]


def test_batches_and_what_is_ahead_hold_the_images_of_the_domains(root):
    (config,) = check(quote_lists(["+method=tent", *SMALL], multirun=False), multirun=False)
    domains = prepare(config.data, ("C", "E"), root / "data")
    streams = [tuple(StreamImage(name, k, k) for k in range(5)) for name in "CE"]
    dataset = LockstepDataset(domains, streams, [0], first=2, batch=2)
    assert [tuple(batch.images.shape[:2]) for batch in map(dataset.__getitem__, range(len(dataset)))] == [
        (2, 2),
        (2, 1),
    ]
    batch = dataset[0]
    assert [(place.domain, place.index) for place in batch.places] == [("C", 2), ("C", 3), ("E", 2), ("E", 3)]
    assert [key.image for key in batch.keys] == [domains[name].image_names[2] for name in "CE"]
    ahead = StreamImages(domains, streams[1])
    assert torch.equal(batch.images[1, 1], ahead[3])
    with pytest.raises(IndexError):
        dataset[2]
