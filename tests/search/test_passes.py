"""Longer pseudo-targets: the same labelled images again, in another order and shifted anew, a search of its own."""

import pytest
import torch

from tiny_cells import TINY, random_pairs
from tta_bench.data.prepare import prepared
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists
from tta_bench.ops.shifts import SHIFTS
from tta_bench.search.passes import longer_targets
from tta_bench.search.pseudo_targets import pseudo_targets
from tta_bench.search.study import Study
from tta_bench.search.tune import tune

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'tta-bench[search]'")

SHIFTED = {"gamma": (0.5,), "noise": (0.08,), "illumination": (0.6,)}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a search with any further words; the images are made once."""
    root = tmp_path_factory.mktemp("passes")
    images = random_pairs(root / "images", {"D": 6, "A": 1})

    def of(*words):
        tiny = [word for word in TINY if not word.startswith(("target=", "data.limit="))]
        ours = ["+method=tent", "tune=true", "search.trials=1", "search.shifts={gamma:[0.5],noise:[0.08]}"]
        folder = ["data=folder", f"data.root={images}", f"results_root={root / 'results'}"]
        (found,) = check(quote_lists([*tiny, *ours, *folder, *words], False), multirun=False)
        return found

    return of


@pytest.fixture
def domain(config):
    return prepared(config(), ("D",))["D"]


def test_a_longer_target_begins_with_the_short_one_and_shows_the_same_labelled_images_again(domain):
    indices = [1, 3, 4]
    short, long = pseudo_targets(domain, indices, SHIFTED, 0), longer_targets(domain, indices, SHIFTED, 0, 4)
    assert short.keys() == long.keys()
    for name, target in long.items():
        assert len(target) == 12
        assert len({*target.image_names}) == 12, "what is drawn depends on the name"
        for index in range(3):
            assert target.image_names[index] == short[name].image_names[index]
            assert torch.equal(target.levels(index), short[name].levels(index))
        for index in range(3, 12):
            original = domain.image_names.index(target.image_names[index].partition(", pass ")[0])
            assert torch.equal(target.truth(index), domain.truth(original))
            assert not torch.equal(target.levels(index), domain.levels(original))
    parts = [[each.partition(",")[0] for each in long["D noise 0.08"].image_names[k : k + 3]] for k in (0, 3, 6, 9)]
    assert all(sorted(part) == sorted(parts[0]) for part in parts)
    assert len({*map(tuple, parts)}) > 1, "orders differ"


def test_images_seen_again_are_shifted_by_half_to_all_of_the_strength_and_never_more(domain):
    (target,) = longer_targets(domain, range(6), {"gamma": (0.5,)}, 0, 5).values()
    light = SHIFTS["gamma"].function
    found = []
    for index in range(6, 30):
        plain = domain.levels(domain.image_names.index(target.image_names[index].partition(", pass ")[0]))
        weakest, strongest = ((light(plain / 255, s, None) * 255).round() for s in (0.75, 0.5))
        seen = target.levels(index)
        assert ((seen >= weakest) & (seen <= strongest)).all()
        found.append(float((seen - plain).mean() / (strongest - plain).mean()))
    assert min(found) < 0.65 < 0.85 < max(found)
    again = longer_targets(domain, range(6), {"gamma": (0.5,)}, 0, 5)["D gamma 0.5"]
    assert torch.equal(again.levels(29), target.levels(29))
    assert not torch.equal(longer_targets(domain, range(6), {"gamma": (0.5,)}, 1, 5)["D gamma 0.5"].levels(29), seen)


def test_passes_are_part_of_a_search_and_one_is_what_there_always_was(config):
    one, two = Study(config()), Study(config("search.passes=2"))
    assert "passes" not in one.identity()["search"]
    assert two.identity()["search"]["passes"] == 2
    assert one.folder != two.folder
    assert one.code != two.code
    assert one.code == Study(config("search.trials=2")).code
    outcomes = [tune(study.config) for study in (one, two)]
    assert [outcome["passes"] for outcome in outcomes] == [1, 2]
    assert outcomes[0]["trials"][0]["per_shift"].keys() == outcomes[1]["trials"][0]["per_shift"].keys()
    assert outcomes[0]["dice"] != outcomes[1]["dice"]
    tuned = config("tune=false", "search.passes=2", "method.preset=tuned")
    assert tuned.method["learning_rate"] == outcomes[1]["options"]["learning_rate"]
