"""The configuration of a prediction: the method is chosen as for a run, all else comes from the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tta_bench.errors import UserError
from tta_bench.launch.check import find_jobs
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.keys import below
from tta_bench.launch.validation import validate
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import TUNED, method_options
from tta_bench.models.checkpoint import OFFICIAL_IMAGE_SIZE, read_description
from tta_bench.runtime.files_section import FilesConfig
from tta_bench.schema import RunConfig, validate_section

TAKEN = (
    *("method", "protocol", "seed", "device", "precision", "runtime", "checkpoint", "predict"),
    *("data.max_pixels", "data.intensity", "data.axis"),
)
"""Keys and groups that a prediction takes."""

OF_THE_CHECKPOINT = (
    "model",
    "preprocessing",
    "branches",
    "data.classes",
    "data.exclusive",
    "data.image_size",
    "data.fit",
    "source",
)
"""Those that the checkpoint decides, where it records them."""


OF_SCORES = ("protocol.score_at", "protocol.empty", "protocol.evaluation")
"""Keys of the protocol that change no prediction."""


def compose_serving(overrides: Sequence[str]) -> RunConfig:
    """The run that a prediction is, without domains: they are names of data sets, and there is none.

    Args:
        overrides: as for a run, the checkpoint among them.

    Raises:
        UserError: every fault found.
    """
    words = quote_lists(overrides, multirun=False)
    keys = [word.partition("=")[0].lstrip("+~") for word in words]
    faults = [
        f"'{key}' is for runs: predict takes {', '.join(TAKEN)} and what belongs to a method or a protocol"
        for key in keys
        if not below(key, (*TAKEN, *OF_THE_CHECKPOINT))
    ]
    sound = [word for word, key in zip(words, keys, strict=True) if below(key, (*TAKEN, *OF_THE_CHECKPOINT))]
    if "checkpoint" not in keys:
        faults.append("no checkpoint is given: add checkpoint=FILE, which 'tta-bench checkpoint verify FILE' describes")
    try:
        (job,) = find_jobs(sound, multirun=False, resolve=lambda section: _resolved(section, keys))
    except UserError as error:
        raise UserError([*faults, *error.faults]) from None
    of_scores = [key for key in OF_SCORES if key in keys]
    faults += [f"{key} is for scores, of which predictions have none: leave it out" for key in of_scores]
    if len(job.config.seed) > 1:
        faults.append("seed lists several numbers: give one, because each image is predicted once")
    if faults:
        raise UserError(faults)
    return job.config


def _resolved(section: Mapping[str, Any], keys: Sequence[str]) -> RunConfig:
    """The run of a composed configuration, with what its checkpoint records.

    Args:
        section: composed.
        keys: that the user has given.

    Raises:
        UserError: every fault found.
    """
    if section["checkpoint"] is None:
        return validate(section)
    if section["method"].get("preset") == TUNED:
        raise UserError("method.preset=tuned is for runs: give the options of the search's outcome.yaml")
    described = read_description(Path(section["checkpoint"]))
    data = dict(section["data"])
    data["exclusive"] = described.activation == "softmax"
    recorded = {"model", "preprocessing", "branches", "data.exclusive"}
    if described.domain is not None:
        recorded.add("source")
    if all(described.classes.values()):
        recorded.add("data.classes")
        data["classes"] = {name: list(values) for name, values in described.classes.items()}
    if described.image_size is not None:
        recorded |= {"data.image_size", "data.fit"}
        data["image_size"], data["fit"] = described.image_size, described.fit
    elif "data.image_size" not in keys:
        data["image_size"] = OFFICIAL_IMAGE_SIZE
    if described.intensity is not None:
        recorded.add("data.intensity")
        data["intensity"] = dict(described.intensity)
    needed: Sequence[str] = ()
    with suppress(UserError):  # told by the validation
        options = method_options(section["method"])
        needed = METHODS.get(section["method"]["name"]).branches(options)
    # Branches that the method does not need stay in the file.
    architecture = dict(described.architecture)
    architecture["branches"] = [branch for branch in architecture["branches"] if branch in needed]
    faults = [f"'{key}' comes from the checkpoint: leave it out" for key in keys if below(key, tuple(recorded))]
    known: Mapping[str, Any] = {
        "data": data,
        "model": {**section["model"], **architecture, "encoder_weights": None},
        "source": described.domain or section["source"],
        "target": None,
    }
    # Of images without a data set, whose reader would have to take them.
    reading = {key: data.pop(key) for key in ("intensity", "axis") if key in data}
    try:
        config = validate({**section, **known})
        files = validate_section(FilesConfig, reading, "data")
    except UserError as error:
        raise UserError([*faults, *error.faults]) from None
    if faults:
        raise UserError(faults)
    read = config.data.model_copy(update={"intensity": files.intensity, "axis": files.axis})
    return config.model_copy(update={"data": read})
