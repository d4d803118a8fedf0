"""From volumes to scores and back: a cell on slices that carry their case, a grey network, masks as volumes."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from made_tables import made_plan, texts_of
from tiny_cells import configure
from tta_bench.cell import run
from tta_bench.cli import main
from tta_bench.data.domain import Domain
from tta_bench.data.prepare import prepared
from tta_bench.launch.experiments import PlannedCell
from tta_bench.metrics.base import METRICS
from tta_bench.records.predictions import Predictions, read_predictions
from tta_bench.records.rescoring import with_metrics
from tta_bench.records.scores import case_scores
from tta_bench.report.cells import seed_of
from tta_bench.report.checks import summary_faults
from tta_bench.report.console import show
from tta_bench.report.model import FinishedCell
from tta_bench.report.tables import build_table

nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")

SIZE = 64


def volume(path, seed, slices=3):
    """A bright ball on a grey ground, in Hounsfield-like units, and its mask."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(
        np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), np.linspace(-0.5, 0.5, slices), indexing="ij"
    )
    ball = x**2 + (y - 0.1 * seed) ** 2 + z**2 < 0.4
    values = (rng.normal(0, 20, ball.shape) + 200 * ball - 50 * seed).astype(np.int16)
    affine = np.diag([-0.5, 0.6, 2, 1])
    for folder, content in (("image", values), ("mask", ball.astype(np.uint8))):
        (path / folder).mkdir(parents=True, exist_ok=True)
        nibabel.Nifti1Image(content, affine).to_filename(path / folder / f"p{seed}.nii.gz")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of data and results of one cell."""
    root = tmp_path_factory.mktemp("volumes")
    for domain, seeds in {"A": (0, 1), "B": (2, 3)}.items():
        for seed in seeds:
            volume(root / "raw" / domain, seed)
    config = configure(
        root / "out",
        *("+method=tent", "source=A", "target=B", "data=folder", f"data.root={root / 'raw'}", "training.batch_size=2"),
        *("data.intensity={window: [-200, 300]}", "model.channels=1", "metrics=[hd95]"),
    )
    (outcome,) = run(config)
    console = Console(file=io.StringIO(), width=80)
    show(console, *outcome)
    return root, *outcome[:2], console.file.getvalue()


def test_slices_carry_their_case_and_cases_are_scored_as_volumes(finished):
    _, cell, (summary, _), printed = finished
    rows = list(csv.DictReader((cell.folder().path / "per_image.csv").open()))
    assert [(row["image"], row["case"], row["slice"]) for row in rows[:4]] == [
        ("p2/0000", "p2", "0"),
        ("p2/0001", "p2", "1"),
        ("p2/0002", "p2", "2"),
        ("p3/0000", "p3", "0"),
    ]
    entry = summary["targets"]["B"]
    assert entry["cases"] == 2
    assert 0 <= entry["case_dice"] == entry["case_dice_foreground"] <= 100
    assert "over whole cases (2): no_adapt " in " ".join(printed.split())
    config = json.dumps(cell.identity())
    assert '"channels": 1' in config
    assert '"window": [-200.0, 300.0]' in config


def test_a_case_counts_its_pixels_together():
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, :2], masks[1, 0] = 1, 1
    cases = (("a", 0), ("a", 1), ("b", 0))
    images = np.zeros((3, 4, 4, 3), np.uint8)
    domain = Domain("X", ("1", "2", "3"), images, masks, {"f": (1,)}, "", cases=cases)
    found = np.zeros((3, 1, 4, 4), bool)
    found[0, 0, :2] = True
    scores = case_scores(domain, Predictions.of(list(found)), range(3), ["dice", "hd95"])
    assert scores["cases"] == 2
    assert scores["case_dice"] == pytest.approx((100 * 2 * 8 / 20 + 100) / 2)
    assert scores["case_hd95"] > 0
    gap = replace(domain, cases=(("a", 0), ("a", 2), ("b", 0)))
    part = case_scores(gap, Predictions.of(list(found)), range(3), ["dice", "hd95"])
    assert part["case_dice"] == scores["case_dice"]
    assert part["case_hd95"] == 0, "without a slice there are no distances in case a"


def test_distances_are_in_millimetres_of_the_files_by_slice_and_by_case(finished):
    _, cell, (summary, _), printed = finished
    domain = prepared(cell.config, ["B"], progress=False)["B"]
    assert sorted(domain.spacing(0)) == pytest.approx([0.5, 0.6, 2])
    assert domain.spacing(0)[0] == pytest.approx(2)
    found = read_predictions(cell.folder().predictions, "B", domain.prediction_shapes)
    masks, true = [torch.from_numpy(found.mask(k)) for k in range(4)], [domain.truth(k) for k in range(4)]
    hd95, entry = METRICS.get("hd95"), summary["targets"]["B"]
    flat = [hd95(*pair, domain.spacing(k)[1:]).mean() for k, pair in enumerate(zip(masks, true, strict=True))]
    assert entry["hd95"] == pytest.approx(float(sum(flat) / 4))
    cases = [[torch.stack(each[part], 1) for each in (masks, true)] for part in (slice(0, 3), slice(3, 4))]
    volumes = [hd95(*case, domain.spacing(0)).mean() for case in cases]
    assert summary["case_hd95"] == entry["case_hd95"] == pytest.approx(float(sum(volumes) / 2))
    assert summary["units"] == {"hd95": "mm"}
    assert "HD95 in mm" in printed


def test_metrics_taken_from_predictions_are_those_of_the_run(finished):
    _, cell, (summary, _), _ = finished
    config = cell.config.model_copy(update={"metrics": ("dice",)})
    domains = prepared(config, ["B"], progress=False)
    rows = list(csv.DictReader((cell.folder().path / "per_image.csv").open()))
    bare = {key: value for key, value in summary.items() if "hd95" not in key and key != "units"}
    bare["metrics"] = {"dice": summary["metrics"]["dice"]}
    bare["targets"] = {"B": {k: v for k, v in summary["targets"]["B"].items() if "hd95" not in k}}
    _, again = with_metrics(bare, rows, cell.folder().predictions, domains, {"hd95": summary["metrics"]["hd95"]})
    assert {key: again[key] for key in summary} == summary


def test_a_table_shows_whole_cases_and_refuses_pixels_beside_millimetres(finished):
    _, cell, (summary, _), _ = finished
    result = FinishedCell("tent", cell, seed_of(cell), summary, (), {})
    pixels = result._replace(summary={key: value for key, value in summary.items() if key != "units"})
    (fault,) = summary_faults([result, pixels], METRICS.get("hd95"))
    assert "hd95 in px" in fault
    assert "in mm" in fault
    assert not summary_faults([result, pixels], METRICS.get("dice"))
    plan = made_plan([PlannedCell("tent", cell)], rows={"tent": {"method": "tent"}}, reference="tent")
    table = build_table(plan, metric=METRICS.get("hd95"))
    assert table.metric.unit == "mm"
    value = f"{summary['case_hd95']:.2f}"
    written = texts_of(table)
    for name in ("table.md", "table.tex", "index.html"):
        assert "over whole cases" in written[name]
        assert value in written[name]
    assert str(summary["case_hd95"]) in written["table.csv"]
    assert str(summary["targets"]["B"]["case_hd95"]) in written["targets.csv"]


def test_predictions_of_a_volume_are_a_volume_in_its_place(finished):
    root, _, (summary, _), _ = finished
    checkpoint = summary["source_checkpoint"]["path"]
    words = ["predict", str(root / "raw/B/image"), str(root / "predicted"), f"checkpoint={checkpoint}", "+method=tent"]
    main([*words, "device=cpu", "--overlay"])
    for case in ("p2", "p3"):
        mask, image = (nibabel.load(root / place / f"{case}.nii.gz") for place in ("predicted/masks", "raw/B/image"))
        assert mask.shape == image.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert set(np.unique(mask.dataobj)) <= {0, 1}
    assert not list((root / "predicted/masks").rglob("*.png"))
    assert (root / "predicted/overlays/p2/0000.jpg").is_file()
    rows = list(csv.DictReader((root / "predicted/predictions.csv").open()))
    assert [row["image"] for row in rows][:2] == ["p2.nii.gz/0000", "p2.nii.gz/0001"]
