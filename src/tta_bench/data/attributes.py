"""What is known of each image beside its masks: measured on it, or given in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from tta_bench.data.domain import Domain
from tta_bench.data.lists import read_table
from tta_bench.errors import UserError, nearest

Value = float | str
Key = tuple[str, int]
"""Domain and index of an image."""


def _brightness(domain: Domain, index: int) -> float:
    return float(domain.picture(index).mean() / 255)


def _size(domain: Domain, index: int) -> float:
    return float(domain.truth(index).any(0).double().mean())


def _skin_type(domain: Domain, index: int) -> str:
    from tta_bench.data.skin_tone import skin_type  # needs SciPy, which takes its time

    return f"type {skin_type(domain.picture(index))}"


COMPUTED: Mapping[str, Callable[[Domain, int], Value]] = {
    "brightness": _brightness,  # mean grey level, in [0, 1]
    "size": _size,  # share of the image that its structures take
    "ita": _skin_type,  # skin type by the individual typology angle, of colour photographs
}
"""Attributes that are measured on the images."""


def attribute(name: str, domains: Mapping[str, Domain], file: Path | None) -> dict[Key, Value]:
    """The value of every image that has one: of a column of a table, else ``domain``, else measured.

    Args:
        name: of the attribute.
        domains: prepared ones.
        file: of ``data.attributes``, a CSV file with the columns domain, image and others; None for none.

    Raises:
        UserError: an unknown attribute, or a table that cannot be read or has none of the images.
    """
    given = _given(name, domains, file) if file is not None else None
    if given is not None:
        return given
    places = [(domain, index) for domain, images in domains.items() for index in range(len(images))]
    if name == "domain":
        return {place: place[0] for place in places}
    if name not in COMPUTED:
        columns = [] if file is None else _columns(file)
        known = nearest(name, ("domain", *COMPUTED, *columns))
        told = "" if file is not None else "; others stand in a table: data.attributes=FILE.csv"
        raise UserError(f"there is no attribute '{name}': {known}{told}")
    return {(domain, index): COMPUTED[name](domains[domain], index) for domain, index in places}


def _columns(file: Path) -> list[str]:
    rows, _ = read_table(file, ("domain", "image"))
    return [column for column in rows[0].entries if column not in ("domain", "image")]


def _given(name: str, domains: Mapping[str, Domain], file: Path) -> dict[Key, Value] | None:
    """Of the table's column; None where it has no such column."""
    rows, faults = read_table(file, ("domain", "image"))
    if faults:
        raise UserError(faults)
    if name in ("domain", "image") or not rows or name not in rows[0].entries:
        return None
    texts: dict[tuple[str, str], str] = {}
    for row in rows:  # an image may stand there by its name, or as a file in a folder
        for image in (PurePath(row.entries["image"]).stem, row.entries["image"]):
            texts[row.entries["domain"], image] = row.entries[name]
    found = {
        (domain, index): text
        for domain, images in domains.items()
        for index, image in enumerate(images.image_names)
        if (text := texts.get((domain, image)) or texts.get((domain, PurePath(image).stem)))
    }
    if not found:
        raise UserError(
            f"{file} names none of the images: its columns domain and image hold names as in per_image.csv of a cell"
        )
    return dict(zip(found, _numbers(list(found.values())), strict=True))


def _numbers(texts: list[str]) -> list[Value]:
    """Texts as numbers where all are numbers, and more than a few different ones."""
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return list(texts)
    return list(values) if len({*values}) > 10 else list(texts)
