"""Cells whose model is trained on one domain after another, and nothing of a stage is read again."""

import pytest
import torch

from tiny_cells import configure, execute, folder, rows, summary
from tta_bench.adaptation.provenance import system_code
from tta_bench.cell import Cell
from tta_bench.data.domain import Domain
from tta_bench.data.held_out import split, trained_on
from tta_bench.data.prepare import prepared
from tta_bench.errors import UserError
from tta_bench.launch.cleaning import unneeded
from tta_bench.launch.stored import stored_cells
from tta_bench.models.placement import copied_to
from tta_bench.offline.continual import after_stages, pool_after
from tta_bench.offline.routing import distance_to, features_of, threshold_of
from tta_bench.offline.stage import Progressed
from tta_bench.ops.gaussians import fit
from tta_bench.source.train import source_model

STAGES = ("A", "B", "C")
SHORT = ("adapt.epochs=1", "adapt.steps=1", "adapt.batch_size=2")


def staged(root, name, stages=STAGES, *words):
    given = (f"source={stages[-1]}", f"stages={','.join(STAGES)}", "target=A,B,C", "data.limit=8")
    labels = ("adapt.labels=all",) if name == "fta" else ()
    system = (f"adapt={name}", *SHORT, *labels) if name else ()
    return configure(root, "method=no_adapt", "protocol.evaluation=held_out", *given, *system, *words)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="session")
def grown(root):
    """``grown(name, stages, *words)``: the pool after some stages."""

    def make(name, stages=STAGES, *words):
        config = staged(root, name, stages, *words)
        domains = prepared(config, STAGES)
        (first,) = config.of_each_source()
        source = source_model(first, trained_on(config, domains["A"]), root)
        return pool_after(config, source, domains, 0, system_code(config), torch.device("cpu"))

    return make


@pytest.fixture
def read(monkeypatch, grown):
    """Every image and mask that is read: domain and name of the image."""
    grown("fta", STAGES[:1])  # the first stage is a source training like any other
    log, levels, mask = [], Domain.levels, Domain.mask

    def note(method):
        def noted(domain, index):
            log.append((domain.name, domain.image_names[index]))
            return method(domain, index)

        return noted

    monkeypatch.setattr(Domain, "levels", note(levels))
    monkeypatch.setattr(Domain, "mask", note(mask))
    return log


@pytest.mark.parametrize("name", ["fta", "odex", "ewc"])
def test_no_image_of_an_earlier_stage_is_read_and_none_that_is_tested_on(name, root, grown, read):
    after_two = grown(name, STAGES[:2])
    assert [domain for domain, _ in read] == sorted(domain for domain, _ in read), "one stage after another"
    read[:] = [each for each in read if each[0] != "A"]
    (names,) = (domain.image_names for domain in prepared(staged(root, name), "B").values())
    assert {image for _, image in read} <= {names[index] for index in split("B", 8)[0]}
    assert read
    read.clear()
    after_three = grown(name)
    assert {domain for domain, _ in read} == {"C"}
    read.clear()
    again = grown(name)
    assert not read, "a stage that was trained is read, with what it has left"
    assert [each.model.sha256 for each in again] == [each.model.sha256 for each in after_three]
    assert len(after_two) <= 2
    files = [each.model.path for each in after_three]
    assert len({*files}) == len(files), "no two members share a model"
    shared = {value.data_ptr() for value in after_three[0].model.model.state_dict().values() if value.numel()}
    for each in after_three[1:]:
        assert not shared & {value.data_ptr() for value in each.model.model.state_dict().values() if value.numel()}


def test_joint_training_reads_all_stages(root, grown, read):
    """A batch of as many images as there are has each of them once."""
    grown("joint", STAGES, "adapt.batch_size=12")
    domains = prepared(staged(root, "joint"), STAGES)
    usable = {(name, domains[name].image_names[index]) for name in STAGES for index in split(name, 8)[0]}
    last = {("A+B", f"{name}/{image}") for name, image in usable if name != "C"}
    assert {each for each in read if each[0] in ("A+B", "C")} == last | {each for each in usable if each[0] == "C"}


def test_always_new_leaves_every_model_as_it_was_after_its_stage(grown):
    """So that there is no forgetting where every image goes to the model of its own stage."""
    pools = [grown("always_new", STAGES[:count]) for count in (1, 2, 3)]
    assert [each.name for each in pools[-1]] == [*STAGES]
    for earlier in pools:
        assert [each.model.sha256 for each in earlier] == [each.model.sha256 for each in pools[-1][: len(earlier)]]
    assert len(pools[-1][0].history) == 1
    assert all(len(child.history) >= 2 for child in pools[-1][1:])


def test_all_stages_and_test_images_are_seen_by_the_first_stages_model(root, grown):
    """For further training moves the first layer, and with it what an earlier Gaussian is of."""
    pool = grown("always_new", STAGES[:2])
    config, cpu = staged(root, "always_new", STAGES[:2]), torch.device("cpu")
    domains = prepared(config, STAGES)
    own = features_of(copied_to(cpu, pool[1].model.model), domains["C"], split("C", 8)[1])
    seen = {
        name: features_of(copied_to(cpu, pool[0].model.model), domains[name], split(name, 8)[name == "C"])
        for name in STAGES
    }
    assert not torch.allclose(own, seen["C"], rtol=1e-3)
    histories = [[fit(seen["A"])], [fit(seen["A"]), fit(seen["B"])]]
    for member, history in zip(pool, histories, strict=True):
        for kept, expected in zip(member.history, history, strict=True):
            torch.testing.assert_close(kept.mean, expected.mean)
            assert kept.typical == pytest.approx(expected.typical)
    _, routes = after_stages(config, pool[0].model, domains, 0, system_code(config), cpu)
    distances, places = torch.stack([distance_to(each, seen["C"]) for each in histories], 1).min(1)
    for k, distance, place in zip(split("C", 8)[1], distances.tolist(), places.tolist(), strict=True):
        name, told = routes.taken["C", k]
        assert name == STAGES[place]
        assert told == pytest.approx(distance / threshold_of(histories[place]))


def test_a_killed_run_goes_on_at_its_stage(tmp_path, monkeypatch, grown):
    config = staged(tmp_path, "fta")
    domains = prepared(config, STAGES)
    (first,) = config.of_each_source()
    source = source_model(first, trained_on(config, domains["A"]), tmp_path)
    arguments = (config, source, domains, 0, system_code(config), torch.device("cpu"))
    made = {path.parent.name for path in (tmp_path / "adapted_models").glob("*/model.ckpt")}
    assert not made
    content = Progressed.content
    told = []

    def killed(progress):
        told.append(progress)
        if len(told) == 2:
            raise KeyboardInterrupt
        return content(progress)

    monkeypatch.setattr("tta_bench.records.snapshots.SNAPSHOT_SECONDS", 0)
    monkeypatch.setattr(Progressed, "content", killed)
    with pytest.raises(KeyboardInterrupt):
        pool_after(*arguments)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "adapted_models").glob("*/model.ckpt")}
    assert len(before) == 1
    monkeypatch.setattr(Progressed, "content", content)
    after = pool_after(*arguments)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    whole = grown("fta")[0].model.model.state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in after[0].model.model.state_dict().items())


def test_cells_of_stages_from_the_command_line(root):
    config = staged(root, "always_new", STAGES[:2])
    assert "trained on A, then B, seed 0" in execute(config)
    told = summary(config)
    assert {*told["routes"]} == {"A", "B"}
    assert {row["source"] for row in rows(config)} <= {"A", "B"}
    assert {row["target"] for row in rows(config)} == {"A", "B", "C"}
    assert sum(sum(each["images"].values()) for each in told["routes"].values()) == 12, "the tested halves"
    cell = Cell(config, 0)
    assert cell.identity()["stages"] == ["A", "B"], "stages that follow change nothing"
    control = cell.reference()
    assert (control.config.adapt, control.config.stages) == (None, ("A", "B"))
    assert control.finished() is not None
    single = staged(root, "fta", STAGES[:2])
    execute(single)
    assert {each["sha256"] for each in summary(single)["adapted"].values()} != {told["source_checkpoint"]["sha256"]}
    assert summary(single)["source_checkpoint"] == told["source_checkpoint"]
    cells, faults = stored_cells(root)
    assert not faults
    assert {each.folder().hash for each in cells} >= {cell.folder().hash, control.folder().hash}
    used = {each["path"] for each in told["routes"].values()}
    assert not any(str(item.path) in path for item in unneeded(root, lambda: []) for path in used)


def test_what_the_models_of_a_finished_cell_were_trained_from_is_kept(tmp_path):
    """Of the stages between, which no summary names, those of finished cells alone."""
    of_three, of_two = (staged(tmp_path, "fta", STAGES[:count], f"adapt.batch_size={count}") for count in (3, 2))
    execute(of_three)
    chain = {*tmp_path.glob("adapted_models/*")}
    execute(of_two)
    other = {*tmp_path.glob("adapted_models/*")} - chain
    assert (len(chain), len(other)) == (2, 1)
    assert not {item.path for item in unneeded(tmp_path, list)} & (chain | other)
    gone = {item.path for item in unneeded(tmp_path, list, {folder(of_three).name}, "told")}
    assert gone & (chain | other) == chain


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("protocol.evaluation=all",), "set protocol.evaluation=held_out"),
        (("source=D",), "source=D is the stage after which is tested"),
        (("stages=A,B,Z",), "unknown stages=Z"),
        (("stages=A,B,A",), "stages lists A more than once"),
        (("route=D",), "without route="),
        (("+method=fda",), "needs a bank of source images"),
        (("adapt=adabn", "adapt.batch_size=2"), "adapt=adabn needs others"),
        (("+method=tent", "method.preset=tuned"), "images whose labels the search may have seen"),
    ],
)
def test_what_does_not_go_together_is_refused(root, words, sentence):
    plain = not any(word.startswith("adapt=") for word in words)
    with pytest.raises(UserError, match=sentence):
        staged(root, "odex" if plain else None, STAGES, *words)


def test_what_is_for_stages_alone_says_so(root):
    with pytest.raises(UserError, match="adapt=odex trains one domain after another: give stages="):
        configure(root, "adapt=odex", "protocol.evaluation=held_out")
    every = configure(root, "adapt=odex", "protocol.evaluation=held_out", "stages=all", "source=C", "target=A")
    assert every.stages == ("A", "B", "C")
