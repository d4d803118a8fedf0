"""What is drawn of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Figure:
    """A figure with what is written below it.

    Attributes:
        title: heading.
        svg: the element.
        caption: how to read it.
    """

    title: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Panels:
    """The finished figure.

    Attributes:
        picture: uint8 ``[height, width, 3]``, RGB.
        caption: what is shown, and how its images were chosen.
        alt: the same for who cannot see it, with the value of every tile.
    """

    picture: NDArray[np.uint8]
    caption: str
    alt: str

    def webp(self) -> bytes:
        """The picture as a WebP file."""
        file = BytesIO()
        Image.fromarray(self.picture).save(file, "WEBP", quality=85, method=4)
        return file.getvalue()


@dataclass(frozen=True)
class Drawings:
    """All that is drawn of a table.

    Attributes:
        figures: that the finished cells have values for.
        panels: the segmentations; None if there are none.
        panels_fault: why there are none, else empty.
    """

    figures: Sequence[Figure]
    panels: Panels | None
    panels_fault: str
