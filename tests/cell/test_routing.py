"""Cells whose images each go to the source model of the nearest centre."""

import pytest
import torch

from tiny_cells import configure, execute, numbers, status, summary
from tta_bench.cell import Cell
from tta_bench.data.prepare import prepared
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.cleaning import unneeded
from tta_bench.launch.experiments import plan
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.stored import stored_cells
from tta_bench.launch.workers import to_train
from tta_bench.methods.base import METHODS
from tta_bench.offline import access
from tta_bench.offline.routing import nearest, routes_of
from tta_bench.records.merging import models_of
from tta_bench.source.train import source_model

ROUTED = ("source=D", "route=E", "target=B,C")
"""Of the images of B some look more like those of D and some more like those of E."""
ALONE = ("source=D", "target=B,C")


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """A results folder with a routed cell of GraTa, image by image, its reference, and the same of each source."""
    root = tmp_path_factory.mktemp("pool")
    for words in (ROUTED, ALONE, ("source=E", "target=B,C")):
        execute(configure(root, "+method=grata", "protocol.reset=image", *words))
    return root


@pytest.mark.parametrize("method", ["no_adapt", "grata"])
def test_every_image_has_the_numbers_of_the_source_that_it_is_routed_to(pool, method):
    words = (f"+method={method}", "protocol.reset=image", "target=B,C")
    routed = numbers(configure(pool, "source=D", "route=E", *words))
    alone = {name: numbers(configure(pool, f"source={name}", *words)) for name in "DE"}
    assert {row["source"] for row in routed} == {"D", "E"}, "the images tell the centres apart"
    for k, row in enumerate(routed):
        expected = {**alone[row["source"]][k], "method": row["method"]}
        assert {key: value for key, value in row.items() if key != "distance"} == expected
        assert float(row["distance"]) > 0
    told = summary(configure(pool, "source=D", "route=E", *words))
    assert [routed[0]["method"], told["method"]] == [{"no_adapt": "routed", "grata": "routed + grata"}[method]] * 2
    counts = {name: sum(each["images"].values()) for name, each in told["routes"].items()}
    assert counts == {name: sum(row["source"] == name for row in routed) for name in "DE"}


def test_images_of_a_centre_are_routed_to_it_and_no_label_is_read(pool, monkeypatch):
    config = configure(pool, *ROUTED)
    domains = prepared(config, tuple("BCDE"))
    models = {
        name: source_model(each, domains[name], pool) for name, each in zip("DE", config.of_each_source(), strict=True)
    }
    monkeypatch.setattr(type(domains["D"]), "mask", lambda *_: pytest.fail("a label was read"))
    home = config.model_copy(update={"target": ("D", "E")})
    routes = routes_of(home, models, domains, torch.device("cpu"))
    assert [routes.taken[name, k][0] for name in "DE" for k in range(4)] == [*"DDDDEEEE"]
    assert min(distance for _, distance in routes.taken.values()) < 1
    only = routes_of(config, {"E": models["E"]}, domains, torch.device("cpu"))
    assert {centre for centre, _ in only.taken.values()} == {"E"}
    assert nearest(torch.tensor([[2.0, 1.0], [3.0, 3.0]])) == [1, 0]


def test_routes_do_not_depend_on_other_images_or_on_their_order(pool):
    config = configure(pool, *ROUTED, "protocol.order=1")
    domains = prepared(config, tuple("BCDE"))
    models = {
        name: source_model(each, domains[name], pool) for name, each in zip("DE", config.of_each_source(), strict=True)
    }
    both = routes_of(config, models, domains, torch.device("cpu")).taken
    alone = routes_of(config.model_copy(update={"target": ("B",)}), models, domains, torch.device("cpu")).taken
    assert alone == {place: route for place, route in both.items() if place[0] == "B"}


def test_a_stopped_cell_goes_on_to_the_same_numbers(pool, monkeypatch):
    config = configure(pool, "+method=tent", *ROUTED)
    execute(config)
    expected = numbers(config)
    tent = METHODS.get("tent")
    adapt, calls = tent.adapt, []

    def stop(self, images, draws):
        calls.append(draws)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return adapt(self, images, draws)

    monkeypatch.setattr(tent, "adapt", stop)
    again = configure(pool, "+method=tent", *ROUTED, "force=true")
    with pytest.raises(KeyboardInterrupt):
        execute(again)
    assert status(config)["status"] == "interrupted"
    execute(config)
    assert status(config)["status"] == "done"
    assert numbers(config) == expected


def test_what_is_stored_of_it_is_known(pool):
    config = configure(pool, "protocol.reset=image", *ROUTED)
    cell = Cell(config, 0)
    assert cell.folder().hash in {each.folder().hash for each in stored_cells(pool)[0]}
    assert "route" not in Cell(configure(pool, "protocol.reset=image", *ALONE), 0).identity()
    paths = {record["path"] for record in models_of(summary(config))}
    assert len(paths) == 2
    assert not [item for item in unneeded(pool, lambda: []) if item.path.parent.name == "source_models"]
    assert to_train([config]) == []
    forced = configure(pool, *ROUTED, "force=true")
    assert [(each.source, each.route) for each in to_train([forced])] == [("D", None), ("E", None)]


def test_a_table_has_a_routed_row_beside_one_of_each_source(pool, tmp_path):
    path = tmp_path / "routed.yaml"
    path.write_text("# Which source?\nrows:\n  one: {method: tent}\n  nearest: {method: tent, route: [E]}\n")
    planned = plan(str(path), ["source=D", "target=B,C", f"results_root={pool}"]).cells
    found = {each.row: (each.cell.config.source, each.cell.config.route) for each in planned}
    assert (found["one"], found["nearest"]) == (("D", None), ("D", ("E",)))


def test_a_method_with_a_bank_has_that_of_every_source(pool, monkeypatch):
    read = []
    get = access.Images.__getitem__
    monkeypatch.setattr(
        access.Images, "__getitem__", lambda images, k: read.append(images._domain.name) or get(images, k)
    )
    execute(configure(pool, "+method=fda", "method.donors=2", *ROUTED))
    assert len([*pool.glob("source_models/*/model.bank_*.pt")]) == 2


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("route=D",), "name domains beside source=D"),
        (("route=A", "target=A"), "target=A is also the source"),
        (("route=AA",), "unknown route=AA: did you mean"),
        (("route=A", "target=C", "+adapt=adabn"), "adapt= is for one"),
        (("route=A", "target=C", "checkpoint=pyproject.toml"), "checkpoint= is for one"),
        (("route=A,A", "target=C"), "route"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, words, fault):
    with pytest.raises(UserError, match=fault):
        configure(tmp_path, *words)


def test_all_other_domains_are_the_targets(tmp_path):
    words = quote_lists(["+method=tent", "source=D", "route=A,B", f"results_root={tmp_path}"], False)
    (config,) = check(words, multirun=False)
    assert (config.sources, config.target) == (("D", "A", "B"), ("C", "E"))
