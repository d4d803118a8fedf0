"""Turn a release as it is downloaded into a folder that data= reads, by one of the recipes or by your own."""

from __future__ import annotations

import argparse
from pathlib import Path

from tta_bench.cli._data import add_all, folding
from tta_bench.errors import UserError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe, the release and where its domains go."""
    parser.add_argument("set", help="recipe, as 'tta-bench list recipes' shows them, or a file of your own")
    parser.add_argument("raw", nargs="?", type=Path, help="folder of the unpacked release; nothing in it is changed")
    parser.add_argument("out", nargs="?", type=Path, help="folder that becomes data.root; releases may share it")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="changes of the recipe: crop.pixels=600 masks.threshold=0.75 …",
    )
    add_all(parser)


def run(parsed: argparse.Namespace) -> None:
    """Prepare, and tell how the result is used."""
    from tta_bench.data.recipes.prepare import command_words, prepare_release
    from tta_bench.data.recipes.recipe import load_recipe

    if "=" in parsed.set:
        raise UserError(
            "data prepare turns a release into domains: tta-bench data prepare SET RAW OUT; to decode the images of a "
            f"configured data set ahead of runs there is: tta-bench data cache {parsed.set} …"
        )
    if parsed.raw is None or parsed.out is None:
        raise UserError(f"say where the release is and where its domains go: data prepare {parsed.set} RAW OUT")
    recipe = load_recipe(parsed.set, parsed.overrides)
    raw, out = parsed.raw.expanduser(), parsed.out.expanduser()
    with folding(parsed):
        release = prepare_release(recipe, raw, out)
    for domain, number in release.images.items():
        print(f"{out / domain}: {number} images, listed with their origins and checksums in manifest.csv")
    print(f"licence: {recipe.licence}")
    print(f"next: tta-bench data check {command_words(recipe, release.classes, out)}")
