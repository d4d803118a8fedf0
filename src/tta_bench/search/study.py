"""What a search is and where its outcome lies: identified by all that decides it, as a cell is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tta_bench.adaptation.linking import Definition
from tta_bench.adaptation.provenance import code_of
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import method_options
from tta_bench.methods.space import space_of
from tta_bench.models.checkpoint import file_sha256
from tta_bench.records.store import cell_hash
from tta_bench.runtime.files import file_fault, warn_once, write_atomically
from tta_bench.schema import RunConfig

log = logging.getLogger(__name__)

OWN_CODE = (Definition("tta_bench.search.objective", "dice_on"), Definition("tta_bench.search.pseudo_targets"))
"""What decides the numbers of a trial beside what every cell runs."""

PASSES = Definition("tta_bench.search.passes", "longer_targets")
"""Likewise, where pseudo-targets are seen several times."""

VERSION = 1
"""Of searches; raise it when the same configuration would be searched in another way."""


@dataclass(frozen=True)
class Study:
    """The search for the options of one method on one source.

    Attributes:
        config: of a run; its targets, seeds and loggers do not matter.
    """

    config: RunConfig

    @property
    def space(self) -> dict[str, Any]:
        """Option -> its :class:`~tta_bench.methods.space.Dimension`."""
        return dict(space_of(METHODS.get(self.config.method["name"]).Options))

    @property
    def defaults(self) -> dict[str, Any]:
        """All options of the method before the search, which is where it begins."""
        return asdict(method_options(self.config.method))

    @property
    def trials(self) -> int:
        """How many there are: the budget, or the defaults alone where there is nothing to search."""
        assert self.config.search is not None
        return self.config.search.trials if self.space else 1

    def identity(self) -> dict[str, Any]:
        """All that decides the outcome."""
        config = self.config
        assert config.search is not None
        left_out = method_options(config.method).without_identity()
        content = config.model_dump(mode="json", include={"source", "data", "model", "protocol", "search"})
        content["protocol"].pop("evaluation", None)  # of targets, which a search does not read
        content["method"] = {"name": config.method["name"]} | {
            key: value for key, value in self.defaults.items() if key not in left_out
        }
        if config.checkpoint is None:
            content["training"] = config.training.content(config.model.branches)
        else:
            content["checkpoint"] = str(config.checkpoint)
            content["model"].pop("preprocessing", None)  # is the checkpoint's
        if config.precision != "f32":
            content["precision"] = config.precision
        space = {name: dimension.record() for name, dimension in self.space.items()}
        return {"search_version": VERSION, "space": space, **content}

    @property
    def folder(self) -> Path:
        """Where it lies: ``results_root/searches/<hash>``."""
        return self.config.results_root / "searches" / cell_hash(self.identity())

    @property
    def path(self) -> Path:
        """Of its outcome."""
        return self.folder / "outcome.yaml"

    def outcome(self) -> dict[str, Any] | None:
        """What a finished search has found; None where there is none, or with a warning where it is damaged."""
        if not self.path.is_file():
            return None
        content = None
        with suppress(yaml.YAMLError, UnicodeDecodeError, OSError):
            content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("options", "inputs")):
            return content
        warn_once(log, f"{self.path} is damaged ({file_fault(self.path) or 'it is no outcome of a search'}): ignored")
        return None

    @property
    def code(self) -> str:
        """Digest of all that decides the numbers of a trial; what looks on in a run does not."""
        assert self.config.search is not None
        code = OWN_CODE if self.config.search.passes == 1 else (*OWN_CODE, PASSES)
        diagnostics = self.config.diagnostics.model_copy(update={"empirical_gradient": False})
        return code_of(self.config.model_copy(update={"diagnostics": diagnostics}), *code)["code"]

    def change_since(self, outcome: Mapping[str, Any]) -> str | None:
        """Why an outcome is not that of a search now, as a clause; None if it is, for all that is known without work.

        The source model is compared where its file is there; its images are when a run is started, see
        :func:`tta_bench.launch.tuned.check_searched_images`.
        """
        inputs = outcome["inputs"]
        if inputs.get("code") != self.code:
            return "the code of the method or of the search changed since"
        path = self._source_file(outcome)
        if path is not None and path.is_file() and _sha256(path, path.stat().st_mtime_ns) != inputs.get("source_model"):
            return f"the source model changed since ({path})"
        return None

    def _source_file(self, outcome: Mapping[str, Any]) -> Path | None:
        """Where the model that was searched with lies: also in a results folder that was copied or moved."""
        if self.config.checkpoint is not None:
            return self.config.checkpoint.expanduser()
        record = outcome.get("source_checkpoint")
        return self.config.results_root.joinpath(*Path(record["path"]).parts[-3:]) if record else None

    def write(self, outcome: Mapping[str, Any]) -> None:
        """Keep the outcome, whole or not at all.

        Raises:
            UserError: the folder cannot be written to.
        """
        head = f"# What a search on source images has found for {self.config.method['name']}; see docs/search.md\n"
        text = yaml.safe_dump(dict(outcome), sort_keys=False, allow_unicode=True, width=120)
        write_atomically(self.path, head + text)


@cache
def _sha256(path: Path, mtime: int) -> str:
    """Of a file that many runs of a sweep ask about."""
    return file_sha256(path)
