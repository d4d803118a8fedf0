"""Qualitative panels, as Figure 3 of the GraTa paper: an image per line, a column per row of a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tta_bench.data.domain import Domain
from tta_bench.data.held_out import tested
from tta_bench.data.prepare import prepared
from tta_bench.errors import UserError, nearest
from tta_bench.metrics.base import Metric
from tta_bench.metrics.dice import dice_score
from tta_bench.ops.painting import COLOURS, fitted, paint
from tta_bench.records.predictions import read_predictions
from tta_bench.report.model import FinishedCell, Panels, Table
from tta_bench.report.text import number
from tta_bench.runtime.names import find

DIFFICULTIES: Final = {"easy": 90, "median": 50, "hard": 10}
"""Name -> percentile of the reference row's values, from the worst to the best."""

PAPER_SOURCE: Final = "D"
"""The source domain of the paper's figure."""

_FIXED_COLOURS: Final = {"disc": COLOURS[0], "cup": COLOURS[1]}  # green and blue, as in the paper
_PAGE: Final = (255, 255, 255)
_INK: Final = (30, 30, 30)
_TILE: Final = 168  # pixels
_GAP: Final = 4
_CONTOUR: Final = 1.5  # pixels
_FILL: Final = 0.28  # opacity


@dataclass(frozen=True)
class Choice:
    """An image to show: its target, place among those tested on, and how it was chosen, empty if by name."""

    target: str
    index: int
    note: str


class Panel(NamedTuple):
    """One image with its segmentations."""

    title: str  # what to call it
    image: NDArray[np.uint8]  # uint8 ``[H, W, 3]``, RGB
    truth: NDArray[np.bool_]  # bool ``[classes, H, W]``
    predictions: Mapping[str, NDArray[np.bool_]]  # row label -> bool ``[classes, H, W]``
    values: Mapping[str, float]  # of the metric, row label -> mean over classes


def panels(table: Table, source: str | None = None, images: Sequence[tuple[str, str]] | None = None) -> Panels:
    """The panels of a table's finished cells for one source model and one order of the images.

    Of several, those that most rows have finished are shown; of several adaptation seeds, a row's first.

    Args:
        table: with its plan.
        source: name of the source domain; default: the one with most finished rows, among equals the paper's.
        images: (target, image name) of each line; default: an easy, a median and a hard image (:func:`choose`).

    Raises:
        UserError: nothing to show yet, an unknown name, or the images have changed since.
    """
    finished = _finished(table)
    if source is None:
        source = max(table.sources, key=lambda name: (len(finished[name]), name == PAPER_SOURCE))
    elif find(source, table.sources) is None:
        raise UserError(f"source={source} is not in table {table.name}: {nearest(source, table.sources)}")
    source = find(source, table.sources) or source
    cells = finished[source]
    if table.reference not in cells:
        raise UserError(
            f"table {table.name} has no predictions of row '{table.reference}' with source={source}, from which the "
            f"images are chosen: finish it with 'python -m tta_bench experiment={table.name} "
            f"{shlex.quote(f'source={source}')}'"
        )
    targets = table.targets[source]
    config, metric = cells[table.reference].cell.config, table.metric
    domains = prepared(config, targets, progress=False)
    rows = {label: _by_target(cell) for label, cell in cells.items()}
    if images is None:
        chosen = choose(rows[table.reference], metric)
    else:
        chosen = _by_name(images, domains, targets, config.protocol.evaluation)
    _check_unchanged(cells, domains, chosen)
    lines = [_panel(choice, domains[choice.target], cells, rows) for choice in chosen]
    absent = [row.label for row in table.rows if row.label not in cells]
    how = (
        f"Images chosen by the {metric.title} of the reference row '{table.reference}' alone: those nearest to its "
        "90th (easy), 50th (median) and 10th (hard) percentile over all targets, from different targets where possible."
        if images is None
        else "Images chosen by name."
    )
    several = len({seed[:2] for seed in table.seeds}) > 1
    shown = f"{source}, training seed {config.training.seed}, order {config.protocol.order}" if several else source
    kind = "after stage" if table.stages else "source"
    caption = (
        f"{kind.capitalize()} {shown}. Fill and contour: {', '.join(config.data.classes)}; boxes: the ground truth; "
        f"number: {metric.in_unit}. {how}" + (f" Without predictions yet: {', '.join(absent)}." if absent else "")
    )
    digits = metric.digits - 1
    values = "; ".join(
        f"{line.title}: " + ", ".join(f"{label} {number(value, digits)}" for label, value in line.values.items())
        for line in lines
    )
    with_ = "" if table.stages else "with "
    alt = f"Segmentations {with_}{kind} {shown}, beside image and ground truth. {metric.in_unit}: {values}."
    return Panels(draw(lines, list(config.data.classes), digits), caption, alt)


def choose(values: Mapping[str, Sequence[float]], metric: Metric = dice_score) -> list[Choice]:
    """An easy, a median and a hard image, from different targets where possible.

    Of all targets' images together, those whose value is nearest to the 90th, 50th and 10th percentile, counted from
    the worst; ties go to the earlier target and image.

    Args:
        values: target -> values of its images, in file order; those that are not finite are not chosen.
        metric: what they are values of.
    """
    finite = {
        (target, index): value
        for target, row in values.items()
        for index, value in enumerate(row)
        if np.isfinite(value)
    }
    chosen: list[Choice] = []
    for note, percentile in DIFFICULTIES.items():
        level = np.percentile([*finite.values()], percentile if metric.direction != "lower" else 100 - percentile)
        fresh = {*values} - {choice.target for choice in chosen} or {*values}
        taken = {(choice.target, choice.index) for choice in chosen}
        candidates = [image for image in finite if image[0] in fresh and image not in taken]
        if candidates:
            chosen.append(Choice(*min(candidates, key=lambda image: abs(finite[image] - level)), note))
    return chosen


def draw(lines: Sequence[Panel], classes: Sequence[str], digits: int = 1) -> NDArray[np.uint8]:
    """Draw panels: a line per image; columns are the image, the ground truth and every row of the table.

    Args:
        lines: at least one; the columns are the labels of the first.
        classes: names of the masks' channels.
        digits: of the values, behind the point.

    Returns:
        uint8 ``[height, width, 3]``, RGB.
    """
    labels = list(lines[0].predictions)
    font, small = _font(13), _font(12)
    headings = [_wrapped(text, font, _TILE) for text in ("image", "ground truth", *labels)]
    titles = [_wrapped(line.title, font, _TILE * 3 // 4) for line in lines]
    left = round(max(font.getlength(part) for title in titles for part in title)) + 3 * _GAP
    top = 17 * max(map(len, headings)) + 2 * _GAP
    step = _TILE + _GAP
    canvas = Image.new("RGB", (left + step * len(headings), top + step * len(lines)), _PAGE)
    pen = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        place = (left + column * step + _TILE // 2, top - _GAP)
        pen.multiline_text(place, "\n".join(heading), _INK, font, anchor="md", align="center", spacing=2)
    for below, line in enumerate(lines):
        y = top + below * step
        pen.multiline_text((_GAP, y + _TILE // 2), "\n".join(titles[below]), _INK, font, anchor="lm", spacing=3)
        plain = fitted(line.image, _TILE)
        tiles = [plain, _tile(plain, line.truth, line.truth, classes)]
        for label in labels:
            tiles.append(_tile(plain, line.predictions[label], line.truth, classes))
            _write_corner(tiles[-1], number(line.values[label], digits), small)
        right, down = (_TILE - plain.width) // 2, (_TILE - plain.height) // 2
        for column, tile in enumerate(tiles):
            canvas.paste(tile, (left + column * step + right, y + down))
    return np.asarray(canvas)


def class_colours(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """The disc is green and the cup blue, as in the paper; other classes take the remaining colours in order."""
    rest = iter([colour for colour in COLOURS if colour not in {_FIXED_COLOURS.get(name) for name in classes}] * 40)
    return [_FIXED_COLOURS.get(name) or next(rest) for name in classes]


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """First column, first row, last column and last row of what is set in ``[H, W]``; None if nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _finished(table: Table) -> dict[str, dict[str, FinishedCell]]:
    """Source -> row label -> a finished cell that has its predictions, rows in the table's order.

    All cells of a source are of one training seed and order: those with most rows, among equals the first, and with
    the reference row, without which there are none.
    """
    cells: dict[str, dict[tuple[int, int], dict[str, FinishedCell]]] = {source: {} for source in table.sources}
    order = [row.label for row in table.rows]
    for cell in sorted(table.finished, key=lambda cell: order.index(cell.row)):
        if cell.cell.folder().predictions.is_file():
            cells[cell.cell.config.source].setdefault(cell.seed[:2], {}).setdefault(cell.row, cell)
    return {
        source: max((repeats[key] for key in sorted(repeats) if table.reference in repeats[key]), key=len, default={})
        for source, repeats in cells.items()
    }


def _by_target(finished: FinishedCell) -> dict[str, list[float]]:
    """Target -> values of its images, in file order."""
    values: dict[str, list[float]] = {target: [] for target in finished.cell.targets}
    for (target, _), value in finished.values.items():
        values[target].append(value)
    return values


def _by_name(
    images: Sequence[tuple[str, str]],
    domains: Mapping[str, Domain],
    targets: Sequence[str],
    evaluation: Literal["held_out"] | None,
) -> list[Choice]:
    """Find the images that were asked for."""
    chosen, faults = [], []
    for typed, typed_name in images:
        target = find(typed, domains)
        name = None if target is None else find(typed_name, domains[target].image_names)
        if target is None:
            faults.append(f"images: '{typed}' is not a target: {nearest(typed, targets)}")
        elif name is None:
            hint = nearest(typed_name, domains[target].image_names[:20])
            faults.append(f"images: domain {target} has no image '{typed_name}': {hint}")
        else:
            index = domains[target].image_names.index(name)
            test = tested(target, len(domains[target]), evaluation)
            if index in test:
                chosen.append(Choice(target, test.index(index), ""))
            else:
                faults.append(f"images: '{name}' of {target} is not tested on under protocol.evaluation={evaluation}")
    if not images:
        faults.append("images is empty: name at least one, or leave it out")
    if faults:
        raise UserError(faults)
    return chosen


def _check_unchanged(
    cells: Mapping[str, FinishedCell], domains: Mapping[str, Domain], chosen: Sequence[Choice]
) -> None:
    """Refuse predictions of images that are no longer those on disk."""
    faults = [
        f"row '{label}': the images of {target} have changed since {finished.cell.folder().path} was computed: "
        "compute it again with force=true"
        for label, finished in cells.items()
        for target in dict.fromkeys(choice.target for choice in chosen)
        if finished.summary["data"].get(target) != domains[target].fingerprint
    ]
    if faults:
        raise UserError(faults)


def _panel(
    choice: Choice,
    domain: Domain,
    cells: Mapping[str, FinishedCell],
    values: Mapping[str, Mapping[str, Sequence[float]]],
) -> Panel:
    """Gather what is to be drawn of an image."""
    target = choice.target
    (evaluation,) = {cell.cell.config.protocol.evaluation for cell in cells.values()}
    test = tested(target, len(domain), evaluation)
    index, shapes = test[choice.index], domain.prediction_shapes
    return Panel(
        title=f"{target}: {domain.image_names[index]}{f' ({choice.note})' if choice.note else ''}",
        image=domain.picture(index),
        truth=domain.truth(index).numpy(),
        predictions={
            label: read_predictions(finished.cell.folder().predictions, target, [shapes[each] for each in test]).mask(
                choice.index
            )
            for label, finished in cells.items()
        },
        values={label: values[label][target][choice.index] for label in cells},
    )


def _tile(
    plain: Image.Image, masks: NDArray[np.bool_], truth: NDArray[np.bool_], classes: Sequence[str]
) -> Image.Image:
    """The image with translucent classes, their contours, and the ground truth's bounding boxes."""
    tile = plain.copy()
    colours = class_colours(classes)
    for mask, colour in zip(masks, colours, strict=True):
        paint(tile, mask, colour, contour=_CONTOUR, fill=_FILL)
    pen = ImageDraw.Draw(tile)
    for mask, colour in zip(truth, colours, strict=True):
        box = bounding_box(mask)
        if box is not None:
            x0, y0, x1, y1 = box
            height, width = mask.shape
            corners = (x0 / width, y0 / height, (x1 + 1) / width, (y1 + 1) / height)
            ends = zip(corners, tile.size * 2, strict=True)
            pen.rectangle([min(round(end * side), side - 1) for end, side in ends], outline=colour)
    return tile


def _write_corner(tile: Image.Image, text: str, font: ImageFont.FreeTypeFont) -> None:
    """White letters on a dark ground at the bottom right."""
    pen = ImageDraw.Draw(tile)
    width = round(font.getlength(text)) + 8
    right, bottom = tile.size
    pen.rectangle([right - width, bottom - 18, right, bottom], fill=(0, 0, 0))
    pen.text((right - width // 2, bottom - 9), text, (255, 255, 255), font, anchor="mm")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings along: Pillow's own lacks letters."""
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text into lines of at most ``width`` pixels, at spaces where possible."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
