"""Which images and masks of a release a recipe finds, and which recipe fits a release."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tta_bench.data.lists import read_table
from tta_bench.data.recipes.patterns import Files, filled
from tta_bench.data.recipes.recipe import Recipe, load_recipe, recipe_names
from tta_bench.errors import UserError


@dataclass(frozen=True)
class Item:
    """One image or volume of a release.

    Attributes:
        name: within its domain.
        split: list of the authors' layout that it belongs to.
        image: path within the release.
        masks: paths of the files of each layer, in the order of :attr:`Masks.patterns`; empty for none.
    """

    name: str
    split: str | None
    image: str
    masks: tuple[tuple[str, ...], ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """All its files, each once."""
        return tuple(dict.fromkeys((self.image, *(path for paths in self.masks for path in paths))))


@dataclass
class Pairing:
    """What a recipe finds in a release.

    Attributes:
        domains: name -> its items in stream order.
        faults: sentences on images without a mask and the like.
        unpaired: number of images without a mask.
    """

    domains: dict[str, list[Item]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unpaired: int = 0

    @property
    def total(self) -> int:
        """Number of items."""
        return sum(map(len, self.domains.values()))


def pair(recipe: Recipe, files: Files) -> Pairing:
    """Find the images and masks; reads names and tables alone.

    Args:
        recipe: what is looked for.
        files: of the release.
    """
    pairing = Pairing()
    tables = {name: _table(recipe, name, files, pairing.faults) for name in recipe.tables}
    for part in recipe.parts:
        found: dict[str, list[Item]] = {}
        for image, fields in files.matching(part.images):
            known = dict(fields)
            for name, table in tables.items():
                value = table.get(fields[recipe.tables[name].field], "")
                if not value and table:
                    pairing.faults.append(f"{files.root / image} stands in no row of the table for its {name}")
                known[name] = value
            masks = tuple(tuple(files.find(patterns, known)) for patterns in recipe.chosen.patterns)
            item = Item(filled(part.name, known), part.split, image, masks)
            if fault := _mask_fault(recipe, files, item, known):
                pairing.unpaired += 1
                pairing.faults.append(fault)
            else:
                found.setdefault(filled(part.domain, known), []).append(item)
        for domain, items in found.items():
            pairing.domains.setdefault(domain, []).extend(sorted(items, key=lambda item: item.name))
    for domain, items in pairing.domains.items():
        first = {item.name: item.image for item in reversed(items)}
        for name, count in Counter(item.name for item in items).items():
            if count > 1:
                pairing.faults.append(
                    f"{count} images of {domain} are called {name}, one is {files.root / first[name]}"
                )
    return pairing


def class_values(recipe: Recipe, files: Files) -> dict[str, tuple[int, ...]]:
    """The classes of a recipe, as ``data.classes``; read from the release's ``dataset.json`` where it names them.

    Raises:
        UserError: that file is not there once, or does not name classes.
    """
    if recipe.classes is not None:
        return dict(recipe.classes)
    assert recipe.labels is not None
    found = [name for name, _ in files.matching([recipe.labels])]
    if len(found) != 1:
        raise UserError(
            f"{files.root} holds {len(found)} files {recipe.labels}, one names the classes: give the folder of one task"
        )
    path = files.root / found[0]
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"].items()
        pairs = [(str(value), int(key)) if str(key).isdecimal() else (str(key), int(value)) for key, value in labels]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f'{path} names no classes as {{"labels": {{"1": "tumour"}}}} does ({error}): mend it') from None
    classes: dict[str, tuple[int, ...]] = {
        name.strip().replace(" ", "_").lower(): (value,) for name, value in pairs if value
    }
    if not classes:
        raise UserError(f"{path} names no class beside the background: mend it")
    return classes


def fitting(files: Files) -> list[tuple[str, Pairing]]:
    """The recipes that find images with masks in a release, the best first: no image without a mask, then the most."""
    found = [(name, pair(load_recipe(name), files)) for name in recipe_names()]
    fits = [(name, pairing) for name, pairing in found if pairing.total]
    return sorted(fits, key=lambda fit: (fit[1].unpaired > 0, -fit[1].total))


def fitting_sentence(files: Files, fits: Sequence[tuple[str, Pairing]]) -> str:
    """Which recipe fits a folder, as :func:`fitting` has found, and the command that uses it."""
    if not fits:
        return (
            f"no recipe fits {files.root} ({len(files.names)} files): 'tta-bench list recipes' shows all, and "
            "docs/prepare_data.md how one is written"
        )
    told = ", ".join(f"{name} ({counts(pairing)})" for name, pairing in fits)
    return f"{files.root} looks like {told}: run tta-bench data prepare {fits[0][0]} {files.root} OUT"


def counts(pairing: Pairing) -> str:
    """Domains with their numbers: ``REFUGE 400, REFUGE_Valid 800``."""
    return ", ".join(f"{domain} {len(items)}" for domain, items in pairing.domains.items())


def differences(expected: Mapping[str, int], pairing: Pairing) -> list[str]:
    """Sentences on domains whose number of images is not that of the paper or the release."""
    found = {domain: len(items) for domain, items in pairing.domains.items()}
    return [
        f"{domain} has {found[domain]} images or volumes, {number} are expected"
        for domain, number in expected.items()
        if found.get(domain, number) != number
    ]


def _mask_fault(recipe: Recipe, files: Files, item: Item, fields: Mapping[str, str]) -> str | None:
    masks = recipe.chosen
    for number, (patterns, paths) in enumerate(zip(masks.patterns, item.masks, strict=True)):
        wanted = files.root / filled(patterns[0], fields)
        layer = masks.layers[number] if masks.layers else None
        if not paths and not (layer and layer.optional):
            return f"{files.root / item.image} has no mask {wanted}: add it, or remove the image"
        if layer and layer.count not in (None, len(paths)):
            return (
                f"{files.root / item.image} has {len(paths)} masks {wanted}, {layer.count} are expected: add the others"
            )
        if len(paths) > 1 and masks.files is not None:
            return f"{files.root / item.image} has {len(paths)} masks {wanted}, such as {paths[0]} and {paths[1]}"
    return None


def _table(recipe: Recipe, name: str, files: Files, faults: list[str]) -> dict[str, str]:
    """Key -> value of a table, empty with a fault where there is none."""
    table = recipe.tables[name]
    found = [path for path, _ in files.matching(table.file)]
    if not found:
        if files.matching([pattern for part in recipe.parts for pattern in part.images]):
            faults.append(f"{files.root} has no table {table.file[0]}, which tells the {name} of each image: add it")
        return {}
    try:
        rows, row_faults = read_table(files.root / found[-1], (table.key, table.column))
    except UserError as error:
        faults += error.faults
        return {}
    faults += row_faults
    return {row.entries[table.key]: row.entries[table.column] for row in rows}
