"""What Hydra refuses, as sentences: its flags, its own keys, and files that it cannot read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from tta_bench.errors import UserError
from tta_bench.runtime.yaml_files import yaml_fault

_REFUSED = {
    "config_name": "there is one configuration: choose its parts with GROUP=NAME, and set its keys with KEY=VALUE",
    "config_path": "the configuration has its place: add a folder of your own YAML files with --config-dir DIR",
    "experimental_rerun": "type the command again instead: what is finished is not computed twice",
}
_COMMANDS = ("run", "multirun", "cfg", "info", "shell_completion")


def refuse_flags(flags: Any) -> None:
    """Refuse flags of Hydra's that make no sense here, or not together.

    Raises:
        UserError: every fault found.
    """

    def flag(name: str) -> str:
        return f"--{name.replace('_', '-')}"

    faults = [f"{flag(name)} is not supported: {remedy}" for name, remedy in _REFUSED.items() if getattr(flags, name)]
    given = [flag(name) for name in _COMMANDS if getattr(flags, name)]
    if len(given) > 1:
        faults.append(f"{' and '.join(given)} exclude each other: give one of them")
    for name, needed in (("resolve", flags.cfg or flags.help), ("package", flags.cfg)):
        if getattr(flags, name) and not needed:
            faults.append(f"{flag(name)} belongs to --cfg job, which shows the configuration: add that or leave it out")
    if flags.shell_completion and "COMP_LINE" not in os.environ:
        faults += [
            f"{text} is what a shell asks, with the line to complete in COMP_LINE: have it ask with "
            f'eval "$(python -m tta_bench -sc install={text.partition("=")[2]})"'
            for text in flags.overrides
            if text.startswith("query=")
        ]
    if faults:
        raise UserError(faults)


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what Hydra and the files of a configuration raise into a sentence.

    Raises:
        UserError: such an error.
    """
    # Hydra would print a traceback and exit with 1 itself.
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException, YAMLError) as error:  # some are OSErrors too
        raise UserError(sentence(error)) from None
    except OSError as error:
        place = error.filename or "a file or folder"
        raise UserError(
            f"{place} cannot be used ({error.strerror or error}): check path and permissions, or choose another "
            "folder with results_root=DIR, or with the hydra key that names it"
        ) from None
    except ValueError as error:
        raise UserError(sentence(error)) from None
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def sentence(error: BaseException) -> str:
    """An error of Hydra's, OmegaConf's or PyYAML's in one line."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return yaml_fault(error, error.problem_mark.name)
    if isinstance(error, ReaderError):
        return yaml_fault(error, error.name)
    messages = [str(each).strip().splitlines() for each in (error, error.__cause__) if each is not None]
    text = ": ".join(dict.fromkeys(lines[0].rstrip(".:") for lines in messages if lines)) or type(error).__name__
    return f"the configuration cannot be composed: {text}"
