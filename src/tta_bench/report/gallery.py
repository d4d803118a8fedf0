"""A picture of a data set: a row of images per domain as a network sees them, and what is counted over all of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tta_bench.data.domain import Domain
from tta_bench.ops.painting import COLOURS, paint
from tta_bench.ops.preprocessing import PAPER, grey
from tta_bench.report.canvas import INK, PALETTE, grid_lines, style
from tta_bench.runtime.names import shown

_BACKGROUND: Final = (255, 255, 255)
_INK: Final = (30, 30, 30)
_TILE: Final = (255, 200, 0)
_GAP: Final = 4  # pixels between images
_LARGEST: Final = 512  # pixels of an image as drawn
_COUNTED: Final = 2**16  # pixels of an image, at equal distances, whose grey levels are counted


class _Shown(NamedTuple):
    """An image as drawn."""

    picture: Image.Image
    mask: NDArray[np.uint8] | None  # of any size
    tiles: Sequence[tuple[float, float, float, float]]  # left, top, right, bottom of each, pixels of the picture


def draw_gallery(domains: Sequence[Domain], path: Path, per_domain: int = 6) -> None:
    """Draw domains as rows of images: the first half of a row plain, the second half with contours.

    The plain images are the first ``n // 2`` of ``n``. What is drawn is what the network sees, the range of each image
    stretched: with padding, and with the outlines of the tiles where images are cut. Below: how many pixels have which
    grey level, and the area of each class in each image.

    Args:
        domains: of the same classes.
        path: file to write, ".png", ".jpg" or ".jpeg"; missing folders are created.
        per_domain: images per row, spread evenly over the domain.

    Raises:
        ValueError: more classes than colours, or another file suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"a gallery is saved as .png, .jpg or .jpeg, not {path.suffix!r}")
    classes = domains[0].classes
    if len(classes) > len(COLOURS):
        raise ValueError(f"at most {len(COLOURS)} classes can be told apart, got {len(classes)}")
    rows = [[_shown(domain, index) for index in _spread(len(domain), per_domain)] for domain in domains]
    heights = [max(each.picture.height for each in row) for row in rows]
    width = max(each.picture.width for row in rows for each in row)
    letters = max(12, max(heights) // 14)
    font = ImageFont.load_default(letters)
    line = round(1.6 * letters)
    names = [shown(domain.name) for domain in domains]
    label = round(max(map(font.getlength, names))) + 2 * line // 3
    legend = sum(round(font.getlength(name)) + 2 * line + line // 4 for name in classes)
    columns = max(map(len, rows))
    counts = _counts(domains, max(label + columns * (width + _GAP), legend, 640))
    size = (counts.width, line + sum(height + _GAP for height in heights) + counts.height)
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    left = label
    for name, colour in zip(classes, COLOURS, strict=False):
        draw.line([(left, line // 2), (left + line, line // 2)], colour, max(2, line // 10))
        left += line + line // 4
        draw.text((left, line // 2), name, _INK, font, anchor="lm")
        left += round(font.getlength(name)) + line
    top = line
    for name, row, height in zip(names, rows, heights, strict=True):
        draw.text((line // 3, top + height // 2), name, _INK, font, anchor="lm")
        for column, each in enumerate(row):
            if column >= len(row) // 2 and each.mask is not None:
                for values, colour in zip(classes.values(), COLOURS, strict=False):
                    contour = max(1.5, each.picture.height / 170)
                    paint(each.picture, np.isin(each.mask, values), colour, contour=contour, fill=0)
            pen = ImageDraw.Draw(each.picture)
            for box in each.tiles:
                pen.rectangle(box, outline=_TILE, width=2)
            canvas.paste(each.picture, (label + column * (width + _GAP), top))
        top += height + _GAP
    canvas.paste(counts, (0, size[1] - counts.height))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, quality=85, optimize=True)  # of which a PNG has no quality


def _spread(length: int, count: int) -> list[int]:
    """Places at equal distances, the first and the last among them."""
    return [int(each) for each in np.linspace(0, length - 1, min(count, length)).round()]


def _shown(domain: Domain, index: int) -> _Shown:
    """An image of a domain, not larger than is drawn."""
    seen = PAPER.unit_range(domain.levels(index)).permute(1, 2, 0).numpy()
    whole = Image.fromarray(domain.geometry.mirrored((255 * seen).round().astype(np.uint8)))
    scale = min(1, _LARGEST / max(whole.size))
    picture = whole.resize([max(1, round(scale * side)) for side in whole.size], Image.Resampling.BICUBIC)
    corners = domain.geometry.corners(*domain.sizes[index]) if domain.geometry.fit == "tile" else []
    ends = ((left, top, left + domain.side - 1, top + domain.side - 1) for top, left in corners)
    mask = None if domain.masks is None else domain.geometry.mirrored(domain.mask(index))
    return _Shown(picture, mask, [tuple(scale * end for end in box) for box in ends])  # type: ignore[misc]


def _counts(domains: Sequence[Domain], width: int) -> Image.Image:
    """Grey levels and class areas of all images, a picture of this width in pixels."""
    labelled = all(domain.masks is not None for domain in domains)
    dots = max(100, width // 10)
    with style():
        figure = Figure((width / dots, 3), dots, layout="constrained", facecolor="white")
        axes = figure.subplots(1, 1 + labelled, squeeze=False)[0]
        edges = np.linspace(0, 256, 65)
        for number, domain in enumerate(domains):
            shares = 100 * np.mean([_grey_shares(domain, index, edges) for index in range(len(domain))], axis=0)
            colour, dashes = PALETTE[number % len(PALETTE)], ("-", "--", ":")[number // len(PALETTE) % 3]
            axes[0].stairs(shares, edges, color=colour, linestyle=dashes, label=shown(domain.name), linewidth=1.2)
        axes[0].set(xlabel="grey level, 0 to 255", ylabel="pixels in %", xlim=(0, 256), ylim=(0, None))
        axes[0].legend(frameon=False, fontsize=7)
        if labelled:
            classes = domains[0].classes
            areas = [np.array([_areas(domain, index) for index in range(len(domain))]) for domain in domains]
            for place, of_class in enumerate(COLOURS[: len(classes)]):
                at = [number + 0.7 * ((place + 0.5) / len(classes) - 0.5) for number in range(len(domains))]
                boxes = axes[1].boxplot(
                    [each[:, place] for each in areas],
                    positions=at,
                    widths=0.6 / len(classes),
                    orientation="horizontal",
                    manage_ticks=False,
                    patch_artist=True,
                    medianprops={"color": INK},
                    flierprops={"marker": ".", "markersize": 3},
                )
                for box in boxes["boxes"]:
                    box.set_facecolor([each / 255 for each in of_class])
            axes[1].set_yticks(range(len(domains)), [shown(domain.name) for domain in domains])
            axes[1].set(xlabel="area of a class in % of the image", xlim=(0, None), ylim=(len(domains) - 0.5, -0.5))
            grid_lines(axes[1], "x")
        grid_lines(axes[0], "y")
        file = io.BytesIO()
        figure.savefig(file, format="png")
    return Image.open(file).convert("RGB").resize((width, 3 * dots))


def _grey_shares(domain: Domain, index: int, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Parts of an image's pixels between grey levels, without its padding."""
    rows, columns = domain.geometry.place(*domain.sizes[index])
    levels = grey(domain.levels(index))[0].numpy()
    image = levels if domain.geometry.fit == "tile" else levels[rows, columns]
    values = image.ravel()[:: max(1, image.size // _COUNTED)]
    return np.histogram(values.clip(0, 255), edges)[0] / len(values)


def _areas(domain: Domain, index: int) -> list[float]:
    """Percent of an image that each class covers."""
    truth = domain.truth(index).numpy()
    return [100 * float(channel.mean()) for channel in truth]
