"""Adapt to unlabelled images and write a mask of each."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.errors import UserError
from tta_bench.runtime.names import literal

if TYPE_CHECKING:
    from tta_bench.serving.serve import Request

_SHOWN = 10  # images or faults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to predict, how, and what to write."""
    parser.add_argument("images", metavar="IN", help="folder, quoted pattern, CSV with a column 'image', or image")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the results")
    text = "checkpoint=FILE +method=NAME; options of the method and keys of the protocol as for a run"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    parser.add_argument("--order", type=Path, metavar="FILE", help="names of all images, one per line; default: sorted")
    text = "'folder' or a column of the CSV: the state starts afresh for each of its values"
    parser.add_argument("--stream-by", metavar="COLUMN", help=text)
    text = "adapted state to go on from, if the file exists, and to save at the end"
    parser.add_argument("--state", type=Path, metavar="FILE", help=text)
    text = "what the images are called in random draws: that of a cell to equal it; default: images"
    parser.add_argument("--domain", metavar="NAME", default="images", help=text)
    parser.add_argument("--per-class", action="store_true", help="one mask of 0 and 255 for each class")
    parser.add_argument("--probabilities", action="store_true", help="16-bit PNG for each class, 65535 is 1")
    parser.add_argument("--overlay", action="store_true", help="contours on the images")
    parser.add_argument("--compare", action="store_true", help="unadapted masks too, and where they differ most")
    text = "do not predict without adaptation as well: faster, and no column tells the change"
    parser.add_argument("--no-change", action="store_true", help=text)


def run(parsed: argparse.Namespace) -> None:
    """Predict, and say what was written; images that cannot be read are an error at the end."""
    from rich.console import Console

    from tta_bench.serving.serve import serve

    request = request_of(parsed)
    rows = serve(request)
    skipped = [row for row in rows if row["skipped"]]
    if request.outputs.compare:
        Console().print(differences(rows))
    done = len(rows) - len(skipped)
    print(f"{done} image{'s' * (done != 1)} predicted: {request.out / 'predictions.csv'} and masks beside it")
    if skipped:
        faults = [f"skipped {row['image']}: {row['skipped']}" for row in skipped[:_SHOWN]]
        more = len(skipped) - len(faults)
        raise UserError(faults + [f"... and {more} more, see {request.out / 'predictions.csv'}"] * (more > 0))


def request_of(parsed: argparse.Namespace) -> Request:
    """What a command line asks for.

    Raises:
        UserError: every fault of configuration, images and flags.
    """
    from tta_bench.adaptation.scenarios.base import scenario_of
    from tta_bench.launch.serving import compose_serving
    from tta_bench.schema import UNADAPTED
    from tta_bench.serving.files import Outputs
    from tta_bench.serving.images import ImageFile, find_images
    from tta_bench.serving.serve import Request

    faults: list[str] = []
    config, images = None, tuple[ImageFile, ...]()
    try:
        config = compose_serving(parsed.overrides)
    except UserError as error:
        faults += error.faults
    axis = None if config is None else config.data.axis
    try:
        images = find_images(parsed.images, parsed.order, parsed.stream_by, parsed.out, axis)
    except UserError as error:
        faults += error.faults
    if parsed.compare and parsed.no_change:
        faults.append("--compare needs what --no-change leaves out: give one of them")
    if parsed.state is not None and parsed.stream_by is not None:
        faults.append("--state keeps one state, and --stream-by starts one for each stream: give one of them")
    if parsed.state is not None and parsed.state.is_dir():
        faults.append(f"--state {parsed.state} is a folder: name a file")
    if config is not None:
        if parsed.compare and config.method["name"] == UNADAPTED:
            faults.append(f"--compare compares with +method={UNADAPTED}: choose another method, or leave it out")
        if parsed.state is not None and scenario_of(config.protocol.reset).episodic:
            reset = f"protocol.reset={config.protocol.reset}"
            faults.append(f"--state keeps what {reset} throws away: leave one of them out")
    if config is None or faults:
        raise UserError(faults)
    outputs = Outputs(
        parsed.per_class, parsed.probabilities, parsed.overlay, parsed.compare, change=not parsed.no_change
    )
    return Request(config, images, parsed.out.expanduser(), outputs, parsed.domain, parsed.state)


def differences(rows: Sequence[Mapping[str, str]]) -> object:
    """A table of the images whose prediction the adaptation has changed most."""
    from rich.table import Table

    predicted = sorted((row for row in rows if not row["skipped"]), key=lambda row: float(row["unadapted_dice"]))
    columns = [name for name in (predicted[0] if predicted else {}) if name.startswith("unadapted_dice_")]
    table = Table(title="Changed most by the adaptation: Dice with the unadapted prediction, percent")
    table.add_column("image")
    for column in (*columns, "unadapted_dice"):
        table.add_column(literal(column.removeprefix("unadapted_dice").lstrip("_") or "mean"), justify="right")
    for row in predicted[:_SHOWN]:
        cells = (f"{float(row[column]):.2f}" for column in (*columns, "unadapted_dice"))
        table.add_row(literal(row["image"]), *cells)
    return table
