"""``tta-bench``: see what there is, check data and checkpoints, predict, report; runs are ``python -m tta_bench``.

Every file of this package whose name has no leading underscore is a subcommand: ``plan.py`` is ``tta-bench plan``,
``data_check.py`` is ``tta-bench data check``. Its docstring is the help; ``add_arguments(parser)`` and
``run(parsed)`` are the rest. All files are imported at every start: what takes long to import, such as torch, is
imported where it is used.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from tta_bench.errors import UserError, print_faults
from tta_bench.runtime import signals
from tta_bench.runtime.names import print_everything, require_utf8
from tta_bench.runtime.threads import wait_by_company

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
wait_by_company(os.environ)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 2 and sentences if the input is bad."""
    if arguments is None:
        signals.install()
    with signals.handled():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    print_everything()
    parser = _parser()
    parsed, more = parser.parse_known_args(arguments)
    # What argparse leaves over are overrides that stand behind a flag.
    if more and (not hasattr(parsed, "overrides") or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        parsed.overrides += more
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("tta_bench").setLevel(logging.INFO)
    try:
        require_utf8([str(word) for word in (sys.argv[1:] if arguments is None else arguments)])
        parsed.run(parsed)
    except UserError as error:
        print_faults(error)
        sys.exit(2)


def subcommands() -> list[str]:
    """The names of the files that are subcommands."""
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


class _Version(argparse.Action):
    """Prints the version; argparse's own action wants it at every start, and reading it takes 20 ms."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tta_bench import __version__

        print(f"tta_bench {__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tta-bench", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    names = subcommands()
    for name in names:
        module = import_module(f"{__name__}.{name}")
        group, _, action = name.partition("_")
        if action and group not in groups:
            actions = [each.partition("_")[2] for each in names if each.startswith(f"{group}_")]
            within = commands.add_parser(group, help=" | ".join(actions))
            groups[group] = within.add_subparsers(required=True, metavar="ACTION")
        text = str(module.__doc__).partition("\n")[0].rstrip(".")
        words: Any = {"help": text[0].lower() + text[1:], "description": f"{text}."}
        command = groups[group].add_parser(action, **words) if action else commands.add_parser(name, **words)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
