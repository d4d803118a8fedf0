"""MLflow: a server, or files of its own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from time import time

from tta_bench.runtime.values import flat
from tta_bench.sinks.base import About, Outcome, Point, Run, SinkOptions, register_sink

_LONGEST = 500  # characters of a parameter


class MlflowOptions(SinkOptions):
    """The keys of ``conf/logger/mlflow.yaml``."""

    tracking_uri: str
    experiment: str


@register_sink("mlflow", "MLflow", MlflowOptions, extra="mlflow")
class MlflowRun(Run):
    """MLflow: a run per cell and per source training, live."""

    def __init__(self, options: MlflowOptions, about: About, folder: Path, going_on: bool, patience: float) -> None:
        from mlflow import MlflowClient  # an extra
        from mlflow.entities import Metric, Param, RunTag

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it makes
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._metric = Metric
        self._client = client = MlflowClient(tracking_uri=options.tracking_uri)
        experiment = client.get_experiment_by_name(options.experiment)
        if experiment is not None:
            number = experiment.experiment_id
        else:
            file = options.tracking_uri.removeprefix("sqlite:///")
            beside = str(Path(file).absolute().parent / "mlflow_artifacts")  # not in whatever is the working directory
            number = client.create_experiment(options.experiment, beside if file != options.tracking_uri else None)
        earlier = client.search_runs([number], f"tags.`tta_bench.id` = '{about.id}'")
        if going_on and earlier:
            self._id = earlier[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            self.held = int(earlier[0].data.metrics.get("points", 0))
            return
        for each in earlier:
            client.delete_run(each.info.run_id)
        tags = {"tta_bench.id": about.id, "job": about.job, "group": about.group or "", "tags": ", ".join(about.tags)}
        self._id = client.create_run(number, run_name=about.name, tags=tags).info.run_id
        params = [Param(_name(key), str(value)[:_LONGEST]) for key, value in flat(about.config, "/").items()]
        for begin in range(0, len(params), 100):  # as many as it takes at once
            client.log_batch(self._id, params=params[begin : begin + 100])
        client.log_batch(self._id, tags=[RunTag("config", json.dumps(about.config)[:5000])])

    def log(self, point: Point) -> None:
        """Its values, and that one more point is here."""
        now = int(1000 * time())
        self.held += 1
        metrics = [self._metric(_name(name), value, now, point.position) for name, value in point.values.items()]
        self._client.log_batch(self._id, [*metrics, self._metric("points", self.held, now, self.held)])

    def finish(self, outcome: Outcome) -> None:
        """The summary as metrics and tags; panels, the table and files as artefacts."""
        now = int(1000 * time())
        for name, value in outcome.summary.items():
            if isinstance(value, str):
                self._client.set_tag(self._id, _name(name), value)
            else:
                self._client.log_batch(self._id, [self._metric(f"final/{_name(name)}", value, now, 0)])
        for path in outcome.pictures.values():
            self._client.log_artifact(self._id, str(path), "panels")
        for path in outcome.files:
            self._client.log_artifact(self._id, str(path))
        if outcome.grid is not None:
            grid = {"columns": list(outcome.grid.columns), "data": [list(row) for row in outcome.grid.rows]}
            self._client.log_text(self._id, json.dumps(grid), "table.json")  # as its own tables are kept
        self._client.set_terminated(self._id)

    def stop(self) -> None:
        """It shows as killed, until it goes on."""
        self._client.set_terminated(self._id, "KILLED")


def _name(text: str) -> str:
    """Names have letters, digits and a few marks."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-. /") else "_" for letter in text)
