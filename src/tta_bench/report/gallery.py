"""A picture of a data set: rows of image tiles, one row per domain, with the annotated contours.

Drawn with Pillow alone, so that a preview needs no plotting library.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tta_bench.ops.painting import COLOURS, paint

_BACKGROUND: Final = (255, 255, 255)
_INK: Final = (30, 30, 30)
_GAP: Final = 4  # pixels between tiles


def draw_gallery(
    rows: Sequence[tuple[str, Sequence[tuple[NDArray[np.uint8], NDArray[np.integer]]]]],
    class_values: Mapping[str, Sequence[int]],
    path: Path,
) -> None:
    """Draw domains as rows of tiles: the first half of a row plain, the second half with contours.

    The plain tiles are the first ``n // 2`` pairs of a row of ``n``; every other pair shows the contours of
    its classes. Tiles may differ in size; each is scaled to the height and width of the largest.

    Args:
        rows: per domain its title and its (image, mask) pairs: uint8 RGB [height, width, 3] and an integer
            mask [height, width].
        class_values: the mask values of each class by its name, in the order of the contour colours; a
            value may belong to several classes (the optic disc is rim and cup).
        path: file to write, ".png", ".jpg" or ".jpeg"; missing folders are created.

    Raises:
        ValueError: no image at all, more classes than colours, or another file suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"a gallery is saved as .png, .jpg or .jpeg, not {path.suffix!r}")
    if len(class_values) > len(COLOURS):
        raise ValueError(f"at most {len(COLOURS)} classes can be told apart, got {len(class_values)}")
    pairs = [pair for _, row in rows for pair in row]
    if not pairs:
        raise ValueError("a gallery needs at least one image")
    height = max(image.shape[0] for image, _ in pairs)
    width = max(image.shape[1] for image, _ in pairs)
    letters = max(12, height // 11)
    font = ImageFont.load_default(letters)
    line = round(1.6 * letters)
    label = round(max(font.getlength(title) for title, _ in rows)) + 2 * line // 3
    columns = max(len(row) for _, row in rows)
    legend = sum(round(font.getlength(name)) + 2 * line + line // 4 for name in class_values)
    size = (label + max(columns * (width + _GAP), legend), line + len(rows) * (height + _GAP))
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    left = label
    for name, colour in zip(class_values, COLOURS, strict=False):
        draw.line([(left, line // 2), (left + line, line // 2)], colour, max(2, line // 10))
        left += line + line // 4
        draw.text((left, line // 2), name, _INK, font, anchor="lm")
        left += round(font.getlength(name)) + line
    for number, (title, row) in enumerate(rows):
        top = line + number * (height + _GAP)
        draw.text((line // 3, top + height // 2), title, _INK, font, anchor="lm")
        for column, (image, mask) in enumerate(row):
            tile = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            if column >= len(row) // 2:
                for values, colour in zip(class_values.values(), COLOURS, strict=False):
                    paint(tile, np.isin(mask, np.asarray(values)), colour, contour=max(1.5, height / 170), fill=0)
            canvas.paste(tile, (label + column * (width + _GAP), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, quality=85, optimize=True)  # of which a PNG has no quality
