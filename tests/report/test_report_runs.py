"""What dashboards get of a report: a table and an artefact, in a run of its own for each thing that is shown."""

from fabricated import IMAGES, fabricated_table

from tta_bench.cli import main
from wandb_files import read


def test_a_table_and_the_same_by_groups_are_two_runs_each_with_table_and_artefact(tmp_path):
    fabricated_table(tmp_path)
    words = ["data.image_size=64", f"data.limit={IMAGES}", "source=A,B", "target=C,D", f"results_root={tmp_path}"]
    words += ["logger=wandb", "logger.wandb.mode=offline"]
    main(["report", "first_look", *words])
    main(["report", "first_look", *words, "--by", "brightness"])
    runs = [read(path) for path in sorted(tmp_path.glob("reports/**/wandb/offline-run-*/*.wandb"))]
    assert {run["name"] for run in runs} == {"table first_look", "table first_look by_brightness"}
    assert len({run["id"] for run in runs}) == 2, "neither replaces the other"
    for run in runs:
        assert (run["job"], run["artifact"]) == ("report", run["id"])
        assert "table" in {name.partition(".")[0] for name in run["summary"]}
