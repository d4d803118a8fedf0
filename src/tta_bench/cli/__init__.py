"""``tta-bench``: look at what there is, check data and checkpoints, report tables; runs are ``python -m tta_bench``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.runtime import signals

if TYPE_CHECKING:
    from tta_bench.launch.experiments import Plan
    from tta_bench.schema import DataConfig

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 2 and sentences if the input is bad."""
    if arguments is None:
        signals.install()
    with signals.handled():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    from tta_bench.errors import UserError, print_faults
    from tta_bench.runtime.names import print_everything, require_utf8

    print_everything()
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("tta_bench").setLevel(logging.INFO)
    try:
        require_utf8([str(word) for word in (sys.argv[1:] if arguments is None else arguments)])
        parsed.command(parsed)
    except UserError as error:
        print_faults(error)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tta-bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    lists = commands.add_parser("list", help="methods, objectives, data sets or experiments")
    lists.add_argument("what", choices=["methods", "objectives", "data", "experiments"])
    lists.add_argument("--markdown", action="store_true", help="methods: the page of the documentation")
    lists.set_defaults(command=_list)

    overrides = "as for a run: data=folder data.root=DIR results_root=DIR …"
    for name, command, text in (
        ("plan", _plan, "list the cells of a table, which of them are finished, and how long the others will take"),
        ("status", _status, "count the finished, stale, running, interrupted, failed and missing cells of a table"),
        ("report", _report, "write a table, finished or not, as Markdown, CSV, LaTeX and HTML"),
    ):
        action = commands.add_parser(name, help=text, description=text)
        action.add_argument("table", metavar="TABLE", help="a name of tta-bench list experiments")
        action.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
        action.set_defaults(command=command)
        if name == "report":
            action.add_argument("--reference", metavar="ROW", help="row to compare with; default: that of the table")
            action.add_argument("--out", type=Path, help="folder to write to; default: RESULTS_ROOT/reports/TABLE")
            action.add_argument("--panels", metavar="SOURCE", help="source domain whose predictions are shown")
            action.add_argument(
                "--image",
                metavar="TARGET/NAME",
                type=_image,
                action="append",
                help="an image to show; repeat for more; default: an easy, a median and a hard one",
            )

    data = commands.add_parser("data", help="check, prepare or preview a data set").add_subparsers(
        required=True, metavar="ACTION"
    )
    overrides = "as for a run: data=folder data.root=DIR data.image_size=256 …"
    for name, command, text in (
        ("check", _data_check, "decode every image and mask and report all faults"),
        ("prepare", _data_prepare, "decode and resize every image once, ahead of runs"),
        ("preview", _data_preview, "draw a gallery of every domain with contours"),
    ):
        action = data.add_parser(name, help=text, description=text)
        action.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
        action.add_argument("--domains", help="names, separated by commas; default: all")
        action.set_defaults(command=command)
        if name == "preview":
            action.add_argument("--out", type=Path, default=Path("preview.jpg"), help="picture to write (.png, .jpg)")
            action.add_argument("--per-domain", type=_positive, default=6, help="images of each domain")

    checkpoint = commands.add_parser("checkpoint", help="verify or import a source model").add_subparsers(
        required=True, metavar="ACTION"
    )
    verify = checkpoint.add_parser("verify", help="say what a checkpoint is, or why it cannot be used")
    verify.add_argument("path", type=Path)
    verify.set_defaults(command=_checkpoint_verify)
    imported = checkpoint.add_parser(
        "import", help="turn the authors' last-Res_Unet.pth into a checkpoint of tta_bench"
    )
    imported.add_argument("official", type=Path)
    imported.add_argument("out", type=Path)
    imported.add_argument("--domain", required=True, help="the source domain it was trained on, for instance A")
    imported.set_defaults(command=_checkpoint_import)
    return parser


def _list(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from tta_bench.cli.listing import listing, methods_page

    if parsed.markdown and parsed.what == "methods":
        print(methods_page(), end="")
        return
    Console().print(listing(parsed.what))


def _plan(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from tta_bench.report.write import plan_table

    Console().print(plan_table(_planned(parsed)))


def _status(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from tta_bench.errors import shown
    from tta_bench.report.write import failures, status_table

    planned = _planned(parsed)
    Console().print(status_table(planned))
    for sentence in failures(planned):
        print(f"failed: {shown(sentence)}")


def _report(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from tta_bench.report.tables import build_table
    from tta_bench.report.write import summary_table, write_report

    planned = _planned(parsed)
    table = build_table(planned, parsed.reference)
    folder = parsed.out or planned.cells[0].cell.config.results_root / "reports" / planned.experiment.name
    written = write_report(table, folder, parsed.panels, parsed.image)
    Console().print(summary_table(table))
    beside = [path.name for path in written[1:] if path.parent == folder]
    print(f"wrote {written[0]}, with {', '.join(beside)} and figures/ beside it")


def _planned(parsed: argparse.Namespace) -> Plan:
    from tta_bench.launch.experiments import plan

    return plan(parsed.table, parsed.overrides)


def _data_check(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from tta_bench.cli.data import check
    from tta_bench.errors import UserError

    config, names, root = _data_config(parsed)
    table, faults = check(config, names, root / "data")
    Console().print(table)
    if faults:
        raise UserError(faults)


def _data_prepare(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from tta_bench.cli.data import prepare_command

    config, names, root = _data_config(parsed)
    Console().print(prepare_command(config, names, root / "data"))


def _data_preview(parsed: argparse.Namespace) -> None:
    from tta_bench.cli.data import preview

    config, names, _ = _data_config(parsed)
    preview(config, names, parsed.out, per_domain=parsed.per_domain)
    print(f"wrote {parsed.out}")


def _data_config(parsed: argparse.Namespace) -> tuple[DataConfig, tuple[str, ...], Path]:
    """The data section of the composed configuration, the asked-for domains and the results root."""
    from tta_bench.data.readers.base import available_domains
    from tta_bench.errors import UserError
    from tta_bench.launch.command_line import compose_data
    from tta_bench.launch.text import split
    from tta_bench.runtime.names import find

    config, root = compose_data(parsed.overrides)
    available = available_domains(config)
    if parsed.domains is None:
        return config, available, root
    names = split(parsed.domains, lambda text: find(text, available))
    if not any(names):
        raise UserError("--domains is empty: name domains, separated by commas, or leave it out")
    return config, tuple("null" if name is None else name for name in names if name != ""), root


def _image(text: str) -> tuple[str, str]:
    target, slash, name = text.partition("/")
    if not (target and slash and name):
        raise argparse.ArgumentTypeError(f"'{text}' names no image: write TARGET/NAME, for instance A/A_007")
    return target, name


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of images: give 1 or more")
    return int(text)


def _checkpoint_verify(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from tta_bench.cli.checkpoint import verify

    Console().print(verify(parsed.path))


def _checkpoint_import(parsed: argparse.Namespace) -> None:
    from tta_bench.cli.checkpoint import import_official

    import_official(parsed.official, parsed.out, parsed.domain)
    print(f"wrote {parsed.out}")


if __name__ == "__main__":
    main()
