"""What the protocol says is what is done, and its hash tells cells apart."""

import shutil
from dataclasses import asdict, fields, replace

from tiny_cells import configure, execute, folder, numbers, rows
from tta_bench.cell import Cell
from tta_bench.data.prepare import prepare
from tta_bench.data.streams import passes
from tta_bench.launch.check import check
from tta_bench.launch.targets import with_targets
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.methods.tent import Tent
from tta_bench.models.adaptable import AdaptableNetwork


def test_a_list_of_seeds_makes_a_cell_each_whose_draws_differ(root):
    config = configure(root, "seed=0,1", "target=A")
    printed = execute(config)
    assert ("seed 0" in printed, "seed 1" in printed) == (True, True)
    assert [row["seed"] for row in rows(config, 1)] == ["1"] * 4
    assert [row["loss_pseudo"] for row in rows(config, 0)] != [row["loss_pseudo"] for row in rows(config, 1)]


def test_an_option_that_came_later_leaves_the_cells_at_its_default_as_they_were(root):
    config = with_targets(configure(root))

    def identified(name, **changes):
        method = {"name": name, **asdict(default_options(name, **changes))}
        return Cell.of(config.model_copy(update={"method": method}), 0).identity()["method"]

    for name in METHODS.names():
        options = fields(METHODS.get(name).Options)
        later = {field.name: field.default for field in options if "later" in field.metadata}
        assert identified(name, **later).keys() == {"name", *(field.name for field in options)} - later.keys()
    changes = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True}
    assert identified("tent", **changes)["nesterov"] is True
    assert identified("dltta", compared_network="source")["compared_network"] == "source"


def test_a_method_that_draws_nothing_has_one_cell_for_all_seeds(root, computed):
    tent, grata = (configure(root, f"+method={method}", "seed=0,1", "target=A") for method in ("tent", "grata"))
    assert [Cell.of(with_targets(tent), seed).seed for seed in (0, 1)] == [0, 0]
    assert [Cell.of(with_targets(grata), seed).seed for seed in (0, 1)] == [0, 1]
    assert Cell.of(with_targets(grata), 1).reference() == Cell.of(with_targets(grata), 0).reference()
    drawn = configure(root, "+method=cotta", "seed=0,1", "target=A", "method.restore=0.5")
    certain = configure(root, "+method=cotta", "seed=0,1", "target=A", "method.restore=0")
    assert [cell.seed for cell in Cell.all_of(with_targets(drawn))] == [0, 1]
    assert [cell.seed for cell in Cell.all_of(with_targets(certain))] == [0]
    printed = execute(tent)
    assert computed == ["no_adapt", "tent"]
    assert ("seed 0" in printed, "seed 1" in printed) == (True, False)
    assert not folder(tent, 1).exists()


def test_another_order_shows_the_images_in_another_order_and_keeps_the_rows_in_file_order(root):
    positions_of = {}
    for order in (0, 1, 2):
        config = configure(root, "+method=tent", "method.learning_rate=0.05", f"protocol.order={order}")
        execute(config)
        assert [(row["target"], row["index"]) for row in rows(config)] == [(t, str(i)) for t in "AC" for i in range(4)]
        positions_of[order] = [int(row["position"]) for row in rows(config)]
        domains = prepare(config.data, config.target, config.results_root / "data")
        (stream, other) = passes(domains, ("A", "C"), order)
        for place in (*stream, *other):
            assert positions_of[order][4 * (place.domain == "C") + place.index] == place.position
        # The first image of a stream is adapted to from the source model, whatever its index.
        losses = [float(row["loss_entropy"]) for row in rows(config)]
        episodic = configure(root, "+method=tent", "method.learning_rate=0.05", "protocol.reset=image")
        execute(episodic)
        first = positions_of[order].index(0)
        assert losses[first] == float(rows(episodic)[first]["loss_entropy"])
    assert positions_of[0] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len({tuple(positions) for positions in positions_of.values()}) == 3


def test_a_target_has_the_same_numbers_alone_and_beside_others(finished, tmp_path):
    config, _ = finished
    root = tmp_path / "results"
    shutil.copytree(config.results_root, root, ignore=shutil.ignore_patterns("cells"))
    alone = configure(root, "target=C")
    execute(alone)
    assert numbers(alone) == [row for row in numbers(config) if row["target"] == "C"]


def test_streams_one_by_one_give_the_numbers_of_those_side_by_side(finished, tmp_path):
    """A CPU takes two of 64 pixels at once when it is not told otherwise."""
    config, _ = finished
    root = tmp_path / "results"
    shutil.copytree(config.results_root, root, ignore=shutil.ignore_patterns("cells"))
    one_by_one = configure(root, "lockstep=1")
    execute(one_by_one)
    assert numbers(one_by_one) == numbers(config)
    masks, others = (folder(each) / "predictions.npz" for each in (one_by_one, config))
    assert masks.read_bytes() == others.read_bytes()


def test_the_reset_rule_decides_what_the_state_lives_through(root):
    """The first image of all is the same under every rule; later ones see more and more of the past."""
    losses = {}
    for rule in ("image", "target", "never"):
        config = configure(root, "+method=tent", "method.learning_rate=0.05", f"protocol.reset={rule}")
        execute(config)
        assert [row["target"] for row in rows(config)] == ["A"] * 4 + ["C"] * 4
        losses[rule] = [float(row["loss_entropy"]) for row in rows(config)]
    assert losses["image"][0] == losses["target"][0] == losses["never"][0]
    assert losses["image"][1] != losses["target"][1] == losses["never"][1]
    assert losses["image"][4] == losses["target"][4] != losses["never"][4]


def test_predicting_before_the_update_differs_from_predicting_after_it(root):
    losses, dice = set(), set()
    for order in ("after", "before"):
        config = configure(
            root, "+method=tent", "method.learning_rate=0.1", "protocol.reset=image", f"protocol.predict={order}"
        )
        execute(config)
        losses.add(tuple(row["loss_entropy"] for row in rows(config)))
        dice.add(tuple(row["dice"] for row in rows(config)))
    assert (len(losses), len(dice)) == (1, 2)


IRRELEVANT = ("device=auto", "lockstep=4", "logger=wandb", "group=x", "results_root=else", "training.workers=3")
RELEVANT = (
    "method.learning_rate=2",
    "+method=tent",
    "source=E",
    "target=C,A",
    "target=A",
    "data.limit=5",
    "data.image_size=96",
    "data.seed=1",
    "data.classes={disc: [1, 2], cup: [1]}",
    "model.encoder=resnet34",
    "model.branches=[rotation]",
    "training.epochs=2",
    "training.seed=1",
    "training.augmentation.flip=0.1",
    "protocol.steps=2",
    "protocol.reset=never",
    "protocol.predict=before",
    "protocol.order=1",
    "diagnostics.empirical_gradient=true",
    "protocol.threshold=0.4",
    "protocol.name=other",
)


def test_the_hash_ignores_what_changes_speed_place_or_display(finished):
    root = finished[0].results_root
    hashes = {folder(configure(root, word)).name for word in (*IRRELEVANT[:1], "logger=wandb", *IRRELEVANT[4:])}
    hashes.add(folder(configure(root, "logger=wandb", "group=x", "lockstep=4", "force=true")).name)
    assert hashes == {folder(finished[0]).name}


def test_an_option_without_effect_makes_no_other_cell_and_is_told(small_net):
    words = ["+method=tent", "source=D", "method.optimizer=adam,sgd", "method.momentum=0,0.9"]
    assert len({folder(each).name for each in check(words)}) == 3
    words = ["method.auxiliary=entropy,denoising", "method.noise_std=0.1,1"]
    both = check(["+method=grata", "source=D", "branches=all", *words])
    cells = {(each.method["auxiliary"], each.method["noise_std"]): folder(each).name for each in both}
    assert len({*cells.values()}) == 3
    assert cells["entropy", 0.1] == cells["entropy", 1.0]
    told = [
        Tent(AdaptableNetwork(small_net), replace(default_options("tent"), momentum=value)).describe()
        for value in (0.0, 0.9)
    ]
    assert ["without effect beside the other options: momentum=0.9" in each for each in told] == [False, True]


def test_the_same_option_written_as_an_integer_is_the_same_cell():
    words = ["+method=grata", "source=D"]
    cells = [check([*words, f"method.perturbation={zero}"], multirun=False)[0] for zero in ("0", "0.0")]
    assert len({folder(cell).name for cell in cells}) == 1


def test_the_hash_changes_with_everything_else(finished):
    root = finished[0].results_root
    hashes = [folder(configure(root, word)).name for word in ("source=D", *RELEVANT)]
    hashes.append(folder(finished[0], seed=1).name)
    assert len(set(hashes)) == len(hashes)
