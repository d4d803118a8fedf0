"""From unlabelled images to masks on disk: one method along its streams, decoded ahead and written behind.

Reading order: :func:`serve` is what ``tta-bench predict`` does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tta_bench.adaptation.linking import Definition
from tta_bench.adaptation.progress import progress_bar
from tta_bench.adaptation.provenance import bank_code, code_of
from tta_bench.adaptation.scenarios.base import Scenario, scenario_of
from tta_bench.adaptation.setup import finish_of, method_on
from tta_bench.data.decoding import Fitted, decode, fitted
from tta_bench.data.domain import Domain
from tta_bench.data.file_record import FileRecord
from tta_bench.data.streams import passes
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS, Method
from tta_bench.methods.options import method_options
from tta_bench.models.checkpoint import SourceModel, load_checkpoint
from tta_bench.offline.bank import banked
from tta_bench.ops.draws import ImageKey
from tta_bench.ops.geometry import Geometry
from tta_bench.records.snapshots import ProgressFile
from tta_bench.runtime import signals
from tta_bench.runtime.memory import keep_freed_memory, refuse_impossible
from tta_bench.runtime.numerics import numerics, resolve_device
from tta_bench.schema import UNADAPTED, RunConfig
from tta_bench.serving.files import ImageWriter, Outputs, Prediction, WriteBehind
from tta_bench.serving.folder import Results
from tta_bench.serving.images import ImageFile
from tta_bench.serving.masks import memberships
from tta_bench.serving.state import read_state, save_state
from tta_bench.serving.volumes import write_volumes

log = logging.getLogger(__name__)

"""The method that every prediction is compared with."""

CODE = (Definition("tta_bench.serving.serve"), Definition("tta_bench.serving.masks"))
"""What decides the predictions beside what decides those of a cell."""


@dataclass(frozen=True)
class Request:
    """What is predicted, how, and where the results go.

    Attributes:
        config: of the method, the source model and the protocol.
        images: in order; those of a stream are brought together.
        out: folder of the results.
        outputs: what is written of each image.
        domain: what the images are called in random draws.
        state: file of the adapted state, to go on from and to leave behind.
    """

    config: RunConfig
    images: tuple[ImageFile, ...]
    out: Path
    outputs: Outputs
    domain: str
    state: Path | None = None

    def identity(self, source: SourceModel) -> dict[str, Any]:
        """All that the results depend on, as plain values."""
        config = self.config
        files = [{"image": image.name, "stream": image.stream, "stamp": _stamp(image.path)} for image in self.images]
        return {
            "method": config.method | asdict(method_options(config.method)),
            "checkpoint": source.sha256,
            **({"bank": source.model.bank.origin} if source.model.bank is not None else {}),
            "model": config.model.model_dump(mode="json"),
            "classes": {name: list(values) for name, values in source.classes.items()},
            "image_size": source.image_size,
            **({"fit": config.data.fit} if config.data.fit != "stretch" else {}),
            **({"predict": config.predict.model_dump()} if config.predict.nest else {}),
            "protocol": config.protocol.model_dump(mode="json"),
            "seed": config.seed[0],
            **config.data.reading,
            "domain": self.domain,
            "outputs": asdict(self.outputs),
            "state": None if self.state is None else str(self.state),
            "code": code_of(config, *CODE)["code"],
            "images": [file if file["stream"] else {**file, "stream": None} for file in files],
        }


@dataclass(frozen=True)
class Position:
    """How far it has come.

    Attributes:
        stream: number of the present one.
        done: images of it that are done.
        rows: index of the image -> its row.
        state: of the method.
    """

    stream: int
    done: int
    rows: dict[int, dict[str, Any]]
    state: dict[str, Any]

    def content(self) -> dict[str, Any]:
        """The same as tensors and plain values."""
        return vars(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Position:
        """The one with this content."""
        return cls(**content)


def serve(request: Request) -> list[dict[str, str]]:
    """Predict all images, or those that a run before has left; does nothing where all are predicted.

    Returns:
        The rows of ``predictions.csv``.

    Raises:
        UserError: the checkpoint, the method or the state file cannot be used, or the folder has other results.
    """
    keep_freed_memory()
    config = request.config
    assert config.checkpoint is not None
    device = resolve_device(config.device)
    gradients = METHODS.get(config.method["name"]).card.needs_gradients
    refuse_impossible(1, config.data.image_size, gradients, device, "use a checkpoint of smaller images")
    source = banked(config, load_checkpoint(config.checkpoint, config), None, None, bank_code())
    if not request.outputs.per_class:
        memberships(source.classes)
    method = method_on(config, source, device)
    results = Results(request.out, request.identity(source), {"checkpoint_file": str(source.path)})
    with results.locked():
        rows = results.finished()
        if rows is not None:
            log.info("%s: predicted before, nothing to do", request.out)
            return rows
        log.info("%s: %s", config.method["name"], method.describe())
        start = results.start_state(request.state)
        belongs = _state_identity(config, source)
        state = None if start is None else read_state(start, str(request.state), belongs, device)
        results.start()
        with signals.at_stake(), numerics(device, config.precision):
            run = _Run(request, source, method, results, state)
            run.adapt()
            write_volumes(request.out, request.images, run.writer.folders, config.data.axis)
        if request.state is not None:
            save_state(request.state, belongs, method.state_dict())
        results.finish([run.rows[index] for index in range(len(request.images))], request.outputs.compare)
        return results.rows()


def _state_identity(config: RunConfig, source: SourceModel) -> dict[str, Any]:
    """What an adapted state belongs to."""
    protocol = config.protocol.model_dump(mode="json", include={"steps", "predict"})
    return {
        "method": config.method | asdict(method_options(config.method)),
        "checkpoint": source.sha256,
        **({"bank": source.model.bank.origin} if source.model.bank is not None else {}),
        "protocol": protocol,
        **({"precision": config.precision} if config.precision != "f32" else {}),
    }


def _stamp(path: Path) -> str:
    """Size and time of the last change of a file."""
    try:
        status = path.stat()
    except OSError:  # told when it is read
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


class _Run:
    """One way through all images.

    Args:
        request: what is asked for.
        source: the source model.
        method: that adapts it.
        results: where they go.
        state: of the method to begin with; None: a fresh one.
    """

    def __init__(
        self, request: Request, source: SourceModel, method: Method, results: Results, state: dict[str, Any] | None
    ) -> None:
        self.request, self.method, self.start_state = request, method, state
        config = request.config
        self.scenario: Scenario = scenario_of(config.protocol.reset)
        self.geometry = Geometry(config.data.image_size, config.data.fit)
        self.device = method.network.source_theta.device
        outputs = request.outputs
        self.unadapted: Method | None = None
        if (outputs.change or outputs.compare) and config.method["name"] != UNADAPTED:
            self.unadapted = METHODS.get(UNADAPTED)(method.network)
        self.writer = ImageWriter(
            request.out,
            source.classes,
            finish_of(config, source),
            self.geometry,
            outputs,
            config.data,
        )
        self.indices: dict[str, list[int]] = {}
        for index, image in enumerate(request.images):
            self.indices.setdefault(image.stream, []).append(index)
        groups = {name or request.domain: members for name, members in self.indices.items()}
        self.groups = groups
        self.streams = self.scenario.streams(passes(groups, list(groups), config.protocol.order))
        # The first image is kept at once: whoever stops a prediction is told that it goes on from where it was.
        self.snapshots = ProgressFile(results.snapshot, results.key(), Position, first=0)
        self.rows: dict[int, dict[str, Any]] = {}

    def adapt(self) -> None:
        """Adapt to every image that is left, predict it and write what is asked for."""
        resumed = self.snapshots.read()
        first = 0
        if resumed is not None:
            self.rows, first = dict(resumed.rows), resumed.stream
            log.info("going on after %d of %d images, where a run before was stopped", len(self.rows), self.total)
        name = self.request.config.method["name"]
        with WriteBehind() as behind, progress_bar(name, self.total, self.rows) as progress:
            for number, stream in enumerate(self.streams[first:], first):
                images = [self.groups[at.domain][at.index] for at in stream]
                self._begin(images)
                done = 0
                if resumed is not None:
                    self.method.load_state_dict(resumed.state)
                    done, resumed = resumed.done, None
                elif self.start_state is not None:
                    self.method.load_state_dict(self.start_state)
                for batch, skipped in self._batches(images[done:]):
                    signals.check()
                    done += len(batch) + len(skipped)
                    for index, reason in skipped.items():
                        log.warning("skipped: %s", reason)
                        behind.do(partial(self._skip, index, reason))
                    if batch:
                        self._step(batch, behind)
                    progress.bar.update(progress.task, advance=len(batch) + len(skipped), domain="")
                    self.snapshots.keep(partial(self._position, number, done, behind))

    @property
    def total(self) -> int:
        """Number of all images."""
        return len(self.request.images)

    def _begin(self, images: Sequence[int]) -> None:
        """A fresh state for a stream; a method that looks ahead sees all its images that can be read."""
        self.method.start(1)
        if type(self.method).before_stream is not Method.before_stream:
            samples = closing(decode([self._record(index) for index in images], self.geometry))
            with samples as each:
                readable = [index for index, sample in zip(images, each, strict=True) if isinstance(sample, Fitted)]
            self.method.before_stream([_Ahead(self, readable)])

    def _record(self, index: int) -> FileRecord:
        """What reads an image."""
        return self.request.images[index].record(self.request.config.data)

    def _batches(self, images: Sequence[int]) -> Iterator[tuple[dict[int, Fitted], dict[int, str]]]:
        """The next images that the method takes together, and those that could not be read before the last of them."""
        batch: dict[int, Fitted] = {}
        skipped: dict[int, str] = {}
        with closing(decode([self._record(index) for index in images], self.geometry)) as samples:
            for index, sample in zip(images, samples, strict=True):
                if isinstance(sample, UserError):
                    skipped[index] = "; ".join(sample.faults)
                else:
                    batch[index] = sample
                if len(batch) == self.scenario.batch:
                    yield batch, skipped
                    batch, skipped = {}, {}
        if batch or skipped:
            yield batch, skipped

    def network_input(self, sample: Fitted) -> Tensor:
        """What the network sees of an image, exactly as in a cell."""
        sizes = ((sample.height, sample.width),)
        domain = Domain("", ("",), sample.image[None], None, {}, "", geometry=self.geometry, sizes=sizes)
        return domain.image(0, self.method.network.preprocessing)

    def _step(self, batch: Mapping[int, Fitted], behind: WriteBehind) -> None:
        """Adapt to one image, or to a batch, and have the predictions written."""
        inputs = torch.stack([self.network_input(sample) for sample in batch.values()]).to(self.device)
        images = inputs if self.scenario.batch == 1 else inputs[None]
        first = self.request.images[next(iter(batch))]
        key = ImageKey(self.request.config.seed[0], self.request.domain, first.stem)
        result = self.method.step(images, [key])
        before = None
        if self.unadapted is not None:
            before = self.unadapted.step(images, [key]).logits.cpu().flatten(0, -4)
        told = {name: values[0] for name, values in result.diagnostics.items()}
        if "skipped" in told:
            told["update_skipped"] = told.pop("skipped")
        told["seconds"] = round(result.seconds, 6)
        logits = result.logits.cpu().flatten(0, -4)
        for row, (index, sample) in enumerate(batch.items()):
            unadapted = None if before is None else before[row]
            prediction = Prediction(logits[row], unadapted, sample.height, sample.width, told)
            behind.do(partial(self._write, index, prediction))

    def _write(self, index: int, prediction: Prediction) -> None:
        image = self.request.images[index]
        self.rows[index] = {**self._head(index), **self.writer.write(image, prediction)}

    def _skip(self, index: int, reason: str) -> None:
        self.rows[index] = {**self._head(index), "skipped": reason}

    def _head(self, index: int) -> dict[str, Any]:
        image = self.request.images[index]
        stream = {"stream": image.stream} if image.stream else {}
        return {"image": image.name, **stream, "method": self.request.config.method["name"]}

    def _position(self, stream: int, done: int, behind: WriteBehind) -> Position:
        """How far it has come, once the files of all images before are written."""
        behind.drain()
        return Position(stream, done, self.rows, self.method.state_dict())


class _Ahead(Dataset[Tensor]):
    """The images of a stream that can be read, each decoded when it is asked for."""

    def __init__(self, run: _Run, images: Sequence[int]) -> None:
        self.run = run
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> Tensor:
        run = self.run
        record = run._record(self.images[k])
        return run.network_input(fitted(record.read(run.geometry.side), run.geometry))
