"""Tables from real cell folders with numbers that can be computed by hand."""

import dataclasses
import json
import math

import pytest

from made_tables import IMAGES, finish, made_plan, planned, simple_plan
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import read_checkpoint, save_checkpoint
from tta_bench.ops.preprocessing import PAPER
from tta_bench.records.store import CellFolder
from tta_bench.report.formats.markdown import write as markdown
from tta_bench.report.model import AVERAGE, Seed
from tta_bench.report.streams import streams_of
from tta_bench.report.tables import build_table
from tta_bench.report.write import remaining_time, states
from tta_bench.source.train import branchless_path

LEVEL = (0 + 1 + math.sqrt(2)) / 3 + 5
"""What the made-up images have besides 50 and the gain: the mean of sqrt(index), and 10 on every second target."""


def row(table, label):
    return next(line for line in table.rows if line.label == label)


# numbers


@pytest.mark.parametrize("drawn", [False, True])
def test_orders_and_draws_of_one_source_model_are_no_further_models(tmp_path, drawn):
    seeds = [(training, order, draw) for training in (0, 1, 2) for order in (0, 1) for draw in range(1 + drawn)]
    method, cells = "grata" if drawn else "tent", []
    for training, order, draw in seeds:
        entry = planned(
            tmp_path, method, {"method": method, "training.seed": training, "protocol.order": order}, seed=draw
        )
        finish(entry.cell, lambda *_, model=training: 50.0 + [1, 2, 6][model])
        cells.append(entry)
    result = build_table(made_plan(cells, reference=method)).rows[0].results["A"]
    assert (result.value, result.std, len(result.seeds)) == (pytest.approx(53), pytest.approx(math.sqrt(7)), len(seeds))


def test_the_average_is_the_unweighted_mean_over_the_sources(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": lambda source, *_: 4.0 if source == "A" else 10.0})
    table = build_table(plan)
    (line,) = table.rows
    assert line.results["A"].value == pytest.approx(54 + LEVEL)
    assert line.results["B"].value == pytest.approx(60 + LEVEL)
    assert line.average.value == pytest.approx(57 + LEVEL)
    assert line.results["A"].classes == {"disc": pytest.approx(54 + LEVEL), "cup": pytest.approx(54 + LEVEL)}
    assert (line.results["A"].n, line.average.n) == (2 * IMAGES, 4 * IMAGES)
    assert table.columns == ("A", "B", AVERAGE)
    assert (table.classes, table.targets) == (("disc", "cup"), {"A": ("C", "D"), "B": ("C", "D")})
    assert not table.missing


def test_a_single_source_is_its_own_average(tmp_path):
    assert build_table(simple_plan(tmp_path, {"no_adapt": 0.0}, sources=("A",))).columns == ("A",)


def test_seeds_are_averaged_and_their_spread_is_that_of_a_sample(tmp_path):
    spread = {0: 1.0, 1: 2.0, 2: 6.0}
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "grata": lambda _, seed, *__: spread[seed]}, seeds=(0, 1, 2))
    table = build_table(plan)
    grata = row(table, "grata")
    assert grata.results["A"].value == pytest.approx(53 + LEVEL)
    assert grata.results["A"].std == pytest.approx(math.sqrt(7))
    assert grata.average.std == pytest.approx(math.sqrt(7))
    assert table.seeds == tuple(Seed(0, 0, seed) for seed in range(3))
    fixed = row(table, "no_adapt").results["A"]
    assert (fixed.std, fixed.seeds) == (None, (Seed(0, 0, None),)), "it draws nothing: one cell for all seeds"


def test_a_cell_for_all_seeds_is_compared_with_every_seed_of_the_other_row(tmp_path):
    """The value of an image is its mean over the seeds: here gains of 1 and 3, a 2 everywhere."""
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "grata": lambda _, seed, *__: 1.0 + 2 * seed}, ("A",), seeds=(0, 1))
    comparison = row(build_table(plan), "grata").vs_reference
    assert (comparison.mean, comparison.low, comparison.high) == (pytest.approx(2),) * 3
    assert (comparison.n, comparison.excluded, comparison.against) == (2 * IMAGES, 0, "no_adapt")


def test_p_of_six_gains_of_different_size_is_the_smallest_possible(tmp_path):
    def gain(source, seed, target, index):
        return 1 + index + 0.1 * (target == "D")

    comparison = row(build_table(simple_plan(tmp_path, {"no_adapt": 0.0, "tent": gain}, ("A",))), "tent").vs_reference
    assert comparison.p == pytest.approx(2 / 2**6)
    assert comparison.p_holm == comparison.p, "of one row nothing is to be corrected"
    assert comparison.mean == pytest.approx(2.05)


def test_an_image_counts_once_however_many_source_models_predict_it(tmp_path):
    """Two models that gain 1 less and 1 more than the image's own gain: n, p and interval are those of the images."""

    def gain(source, seed, target, index):
        return 1 + index + 0.1 * (target == "D")

    def shifted(source, *place):
        return gain(source, *place) + {"A": -1, "B": 1}[source]

    (tmp_path / "one").mkdir()
    plan = simple_plan(tmp_path / "one", {"no_adapt": 0.0, "tent": gain}, ("A",))
    single = row(build_table(plan), "tent").vs_reference
    two = row(build_table(simple_plan(tmp_path, {"no_adapt": 0.0, "tent": shifted})), "tent").vs_reference
    assert (two.n, two.excluded, two.sources) == (2 * IMAGES, 0, ("A", "B"))
    assert (two.mean, two.low, two.high, two.p) == pytest.approx((single.mean, single.low, single.high, single.p))


def test_pairs_of_source_and_target_count_equally(tmp_path):
    """C has one source model and D two: (1 + (2 + 6)) / 3, not the (1 + 4) / 2 of the targets."""
    cells = [
        planned(tmp_path, label, {"method": label, "target": targets}, source)
        for label in ("no_adapt", "tent")
        for source, targets in (("A", ("C", "D")), ("B", ("D",)))
    ]
    gains = {("A", "C"): 1, ("A", "D"): 2, ("B", "D"): 6}
    for entry in cells:
        source = entry.cell.config.source if entry.row == "tent" else None
        finish(entry.cell, lambda target, index, source=source: 50 + index + gains.get((source, target), 0))
    comparison = row(build_table(made_plan(cells)), "tent").vs_reference
    assert (comparison.mean, comparison.n) == (pytest.approx(3), 2 * IMAGES)


def test_p_values_are_corrected_for_all_rows_but_the_reference(tmp_path):
    def better(source, seed, target, index):
        return 1 + index + 0.1 * (target == "D")

    def mixed(source, seed, target, index):
        return better(source, seed, target, index) * (-1) ** index

    gains = {"no_adapt": 0.0, "bn_only": 0.0, "tent": better, "dltta": mixed}
    table = build_table(simple_plan(tmp_path, gains, ("A",)))
    p = {label: row(table, label).vs_reference for label in ("bn_only", "tent", "dltta")}
    assert p["bn_only"].p == 1.0
    assert p["tent"].p_holm == pytest.approx(3 * p["tent"].p)
    assert p["dltta"].p_holm == pytest.approx(min(1, 2 * p["dltta"].p))
    assert row(table, "no_adapt").vs_reference is None


def test_rows_are_compared_with_test_image_statistics_too(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "bn_only": 5.0, "tent": 7.0})
    table = build_table(plan)
    assert row(table, "tent").vs_reference.mean == pytest.approx(7)
    assert row(table, "tent").vs_bn_only.mean == pytest.approx(2)
    assert row(table, "bn_only").vs_bn_only is None
    assert row(table, "no_adapt").vs_bn_only is None, "the difference of bn_only to it, with the other sign"
    against_tent = build_table(plan, reference="tent")
    assert against_tent.reference == "tent"
    assert row(against_tent, "no_adapt").vs_reference.mean == pytest.approx(-7)
    assert row(build_table(plan, reference="bn_only"), "tent").vs_bn_only is None, "it is the reference already"


def test_images_without_a_finite_value_are_left_out_and_counted(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "tent": 3.0}, ("A",))
    path = plan.cells[1].cell.folder().path / "per_image.csv"
    lines = path.read_text().splitlines()
    column = lines[0].split(",").index("dice")
    for number, value in ((1, "nan"), (2, ""), (4, "inf"), (6, "")):
        fields = lines[number].split(",")
        lines[number] = ",".join([*fields[:column], value, *fields[column + 1 :]])
    path.write_text("\n".join(lines) + "\n")
    comparison = row(build_table(plan), "tent").vs_reference
    assert (comparison.n, comparison.excluded) == (2, 4)
    assert comparison.mean == pytest.approx(3)


def test_the_papers_numbers_stand_beside_the_measured_ones(tmp_path):
    printed = {"A": 50.0, "B": 60.0, "average": 55.0}
    plan = simple_plan(tmp_path, {"no_adapt": 1.0, "tent": 1.0}, paper={"no_adapt": printed})
    table = build_table(plan)
    assert row(table, "no_adapt").paper == printed
    assert row(table, "no_adapt").minus_paper == {
        "A": pytest.approx(1 + LEVEL),
        "B": pytest.approx(LEVEL - 9),
        "average": pytest.approx(LEVEL - 4),
    }
    assert (row(table, "tent").paper, row(table, "tent").minus_paper) == ({}, {})
    assert table.has_paper


def test_the_papers_average_is_of_its_own_sources_alone(tmp_path):
    printed = {"A": 50.0, "B": 60.0, "average": 55.0}
    line = build_table(simple_plan(tmp_path, {"no_adapt": 0.0}, ("A",), paper={"no_adapt": printed})).rows[0]
    assert line.paper == {"A": 50.0}
    assert set(line.minus_paper) == {"A"}


def test_costs_are_means_over_cells_and_the_largest_memory(tmp_path):
    cells = [planned(tmp_path, "no_adapt", {}, source) for source in "AB"]
    finish(cells[0].cell, lambda *_: 50.0, seconds_per_image=0.1, peak_memory_mb=300.0, skipped_updates=2)
    finish(cells[1].cell, lambda *_: 50.0, seconds_per_image=0.2, peak_memory_mb=200.0, skipped_updates=3)
    (line,) = build_table(made_plan(cells)).rows
    assert line.costs.ms_per_image == pytest.approx(150)
    assert line.costs[1:] == (300.0, 2.0, 1.0, False)
    assert line.skipped_updates == 5


def test_source_models_and_versions_are_listed_once(tmp_path):
    table = build_table(simple_plan(tmp_path, {"no_adapt": 0.0, "tent": 0.0}))
    assert [(model.source, model.training_seed, model.dice_in_domain) for model in table.source_models] == [
        ("A", 0, 90.0),
        ("B", 0, 90.0),
    ]
    assert table.versions == ({"tta_bench": "0.1.0", "torch": "2.15.0", "device": "x86_64"},)


@pytest.mark.parametrize(
    ("dice", "twin", "cost", "lacks"),
    [(90.0, 91.5, 1.5, False), (90.0, None, None, True), (None, None, None, False)],
)
def test_what_branches_cost_is_known_once_the_model_without_them_is_there(tmp_path, dice, twin, cost, lacks):
    entry = planned(tmp_path, "no_adapt", {"method": "no_adapt", "model.branches": ("rotation",)})

    def keep(path, branches, in_domain):
        model = entry.cell.config.model.model_copy(update={"branches": tuple(branches)})
        save_checkpoint(
            path,
            build_model(model, 2).state_dict(),
            architecture=model.model_dump(mode="json"),
            preprocessing=PAPER,
            classes={"disc": (1, 2), "cup": (2,)},
            image_size=64,
            domain="A",
            fingerprint="aa",
            training=entry.cell.config.training.model_dump(mode="json"),
            dice_in_domain_per_class=None if in_domain is None else {"disc": in_domain, "cup": in_domain},
        )
        return read_checkpoint(path)

    branched = keep(tmp_path / "model.ckpt", ["rotation"], dice)
    if twin is not None:
        path = branchless_path(branched, tmp_path)
        path.parent.mkdir(parents=True)
        keep(path, [], twin)
    record = {"path": str(branched.path), "sha256": branched.sha256, "dice_in_domain": dice}
    finish(entry.cell, lambda *_: 50.0, source_checkpoint=record)
    (record_of_model,) = build_table(made_plan([entry])).source_models
    assert (record_of_model.branch_cost, record_of_model.lacks_twin) == (cost, lacks)


# unfinished tables


def test_a_cell_that_stands_for_several_seeds_is_read_once(tmp_path, monkeypatch):
    one, read = planned(tmp_path, "no_adapt", {}), []
    monkeypatch.setattr(CellFolder, "finished", lambda folder: read.append(folder))
    assert [state.status for state in states(made_plan([one, one]))] == ["missing"]
    assert read == [one.cell.folder()]


def test_without_a_source_there_is_no_average(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "tent": 2.0})
    cell = plan.cells[-1].cell
    cell.folder().start({})
    cell.folder().fail(RuntimeError("out of memory"))
    table = build_table(plan)
    tent = row(table, "tent")
    assert tent.average.value is None
    assert (tent.results["B"].value, tent.results["B"].missing) == (None, (Seed(0, 0, None),))
    assert tent.results["A"].value == pytest.approx(52 + LEVEL)
    (missing,) = table.missing
    assert (missing.row, missing.source, missing.status) == ("tent", "B", "failed")
    assert missing.error == "RuntimeError: out of memory"
    assert tent.vs_reference.sources == ("A",)
    assert tent.vs_reference.n == 2 * IMAGES


def test_a_missing_seed_is_named_and_the_others_count(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "grata": lambda _, seed, *__: 2.0 * seed}, seeds=(0, 1))
    lost = next(entry.cell for entry in plan.cells if entry.row == "grata" and entry.cell.seed == 1)
    lost.folder().start({})
    table = build_table(plan)
    grata = row(table, "grata")
    assert grata.results["A"].missing == (Seed(0, 0, 1),)
    assert grata.results["A"].value == pytest.approx(50 + LEVEL)
    assert grata.average.value == pytest.approx((50 + 51) / 2 + LEVEL)
    assert (grata.average.seeds, grata.average.missing) == ((Seed(0, 0, 0),), (Seed(0, 0, 1),))
    assert [entry.status for entry in table.missing] == ["killed"]
    with lost.folder().locked():
        assert [entry.status for entry in build_table(plan).missing] == ["running"]


def test_a_table_without_any_result_has_rows_and_no_numbers(tmp_path):
    table = build_table(made_plan([planned(tmp_path, label, {"method": label}) for label in ("no_adapt", "tent")]))
    assert [entry.label for entry in table.rows] == ["no_adapt", "tent"]
    assert all(entry.average.value is None and entry.vs_reference is None for entry in table.rows)
    assert [entry.status for entry in table.missing] == ["missing", "missing"]
    assert (table.source_models, table.versions) == ((), ())


# repeats, and what does not count


def test_orders_and_training_seeds_are_repeats(tmp_path):
    cells = []
    for label, gain in (("no_adapt", 0.0), ("tent", 1.0)):
        for order, training in ((0, 0), (1, 0), (0, 1)):
            values = {"method": label, "protocol.order": order, "training.seed": training}
            cells.append(planned(tmp_path, label, values))
            finish(cells[-1].cell, lambda *_, g=gain, o=order, t=training: 50 + g + o + t)
    table = build_table(made_plan(cells, sweep={"protocol.order": "0,1", "training.seed": "0,1"}))
    assert row(table, "tent").results["A"].value == pytest.approx(51 + 2 / 3)
    assert row(table, "tent").vs_reference.mean == pytest.approx(1)
    assert len(table.seeds) == 3
    assert table.protocol["order"] == (0, 1)
    assert len(table.source_models) == 2


def test_only_repeats_that_both_rows_have_are_compared(tmp_path):
    """Order 1 gains 20 points, but of the reference only order 0 is finished, where the gain is 1."""
    cells = []
    for label, gains in (("no_adapt", (0.0, None)), ("tent", (1.0, 20.0))):
        for order, gain in enumerate(gains):
            cells.append(planned(tmp_path, label, {"method": label, "protocol.order": order}))
            if gain is not None:
                finish(cells[-1].cell, lambda *_, g=gain: 50 + g)
    assert row(build_table(made_plan(cells)), "tent").vs_reference.mean == pytest.approx(1)


def test_a_table_can_be_changed_by_nobody(tmp_path):
    table = build_table(simple_plan(tmp_path, {"no_adapt": 0.0}, ("A",)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.name = "other"


def test_a_cell_of_other_code_is_stale_and_does_not_count(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "tent": 1.0})
    spoilt, unknown = (entry.cell for entry in plan.cells if entry.cell.config.source == "A")
    for cell, change in ((spoilt, {"code": "other"}), (unknown, {"code": None, "code_modules": None})):
        path = cell.folder().path / "summary.json"
        content = json.loads(path.read_text())
        if change["code"]:
            change["code_modules"] = content["code_modules"] | {"tta_bench.metrics.dice": "other"}
        path.write_text(json.dumps(content | change))
    table = build_table(plan)
    assert [(entry.status, entry.source, entry.error) for entry in table.missing] == [
        ("stale", "A", "the code of tta_bench.metrics.dice changed since"),
        ("stale", "A", "it is not known which code made it"),
    ]
    assert [entry.results["A"].value for entry in table.rows] == [None, None]
    assert "no_adapt (1 stale); tent (1 stale). Stale ones were computed by other code" in markdown(table)
    assert set(streams_of(table)["tent"][0].key) >= {"B"}
    assert len(streams_of(table)["tent"]) == len(plan.cells[0].cell.targets)
    assert "2 cells remain: about 6 s one after the other" in remaining_time(states(plan))
    assert len({entry.cell.folder().hash for entry in plan.cells}) == 4, "the hash of a cell does not know the code"
