"""Turn a release into domains by a recipe."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from tta_bench.data.recipes.pairing import Pairing, class_values, counts, differences, fitting, fitting_sentence, pair
from tta_bench.data.recipes.patterns import Files
from tta_bench.data.recipes.recipe import Recipe
from tta_bench.data.recipes.writing import Target, counted, write_domain
from tta_bench.errors import UserError, shown

log = logging.getLogger(__name__)


def examine(recipe: Recipe, root: Path) -> tuple[Pairing, dict[str, tuple[int, ...]]]:
    """What a recipe finds in a release, with the classes.

    Raises:
        UserError: it finds no image, with the recipe that does; or with every image whose mask is missing.
    """
    files = Files(root)
    pairing = pair(recipe, files)
    if not pairing.total and not pairing.unpaired:
        wanted = ", ".join(dict.fromkeys(pattern for part in recipe.parts for pattern in part.images))
        raise UserError(
            [f"{root} holds no image of {recipe.title} ({wanted})", fitting_sentence(files, fitting(files))]
        )
    if pairing.faults:
        raise UserError(pairing.faults)
    for sentence in differences(recipe.expected, pairing):
        log.warning("%s: see docs/prepare_data.md; what is there is used", sentence)
    if missing := [name for name in recipe.expected if name not in pairing.domains]:
        log.warning("%s: no image found, left out (found: %s)", ", ".join(missing), counts(pairing))
    return pairing, class_values(recipe, files)


class Release(NamedTuple):
    """What was written: domain -> number of images (slices, of volumes), and the classes as ``data.classes``."""

    images: dict[str, int]
    classes: dict[str, tuple[int, ...]]


def prepare_release(recipe: Recipe, root: Path, out: Path, *, progress: bool = True) -> Release:
    """Write the domains of a release.

    Args:
        recipe: how.
        root: the unpacked release.
        out: folder that becomes ``data.root``; several releases may share it.
        progress: show a bar, if standard error is a terminal.

    Raises:
        UserError: as :func:`examine` and :func:`tta_bench.data.recipes.writing.write_domain`, of all domains at once.
    """
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"OUT={out} lies in the release {root}, where its files would be found again: choose another")
    pairing, classes = examine(recipe, root)
    faults: list[str] = []
    written: dict[str, int] = {}
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bars:
        for domain, items in pairing.domains.items():
            task = bars.add_task(escape(f"Preparing {shown(domain)}"), total=len(items))
            target = Target(out, domain, recipe, classes, root)
            try:
                rows = write_domain(target, items, lambda task=task: bars.advance(task))  # type: ignore[misc]
            except UserError as error:
                faults += error.faults
                continue
            written[domain] = len(rows)
            for sentence in counted(rows):
                log.warning("%s: %s", domain, sentence)
    if faults:
        raise UserError(faults)
    return Release(written, classes)


def command_words(recipe: Recipe, classes: Mapping[str, tuple[int, ...]], out: Path) -> str:
    """What a run is told to read the prepared domains: ``data=folder data.root=OUT data.classes=…``."""
    if recipe.fundus:
        return f"data=fundus data.root={out}"
    told = ",".join(f"{name}:[{','.join(map(str, values))}]" for name, values in classes.items())
    words = f"data=folder data.root={out}"
    return words if dict(classes) == {"foreground": (1,)} else f"{words} 'data.classes={{{told}}}'"
