"""List what there is to choose from: methods, objectives, data sets, experiments and so on."""

from __future__ import annotations

import argparse
import re

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tta_bench.launch.catalogue import catalogue, matching, plugin_configs, registries
from tta_bench.launch.experiment_files import heading, read_experiments
from tta_bench.methods.card import Card
from tta_bench.offline.card import SystemCard
from tta_bench.runtime.paths import CONFIG_DIR


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is listed."""
    parser.add_argument("what", choices=[*registries(), "data", "experiments", "recipes"])
    parser.add_argument("pattern", nargs="?", default="*", help="only names that match, such as 'gra*'")
    parser.add_argument("--markdown", action="store_true", help="methods, recipes: as in the documentation")


def run(parsed: argparse.Namespace) -> None:
    """Print the list."""
    if parsed.markdown and parsed.what in ("methods", "recipes"):
        print(methods_page() if parsed.what == "methods" else recipes_section(), end="")
    else:
        Console().print(listing(parsed.what, parsed.pattern))


def listing(what: str, pattern: str = "*") -> Table:
    """A table of a registry, of ``data``, of ``experiments`` or of ``recipes``.

    Raises:
        UserError: no name matches.
    """
    own = {"data": _data, "experiments": _experiments, "recipes": _recipes}
    if what in own:
        return own[what](pattern)
    tables = {"methods": _methods, "systems": _systems}
    table = tables[what](pattern) if what in tables else _described(what, pattern)
    for name, error in catalogue(what).broken.items():
        table.add_row(f"[red]{escape(name)}[/red]", escape(f"plug-in cannot be used: {error}"))
    return table


def _table(*columns: str) -> Table:
    """A table for 80 columns: the first column, the name, is never broken."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table


def _methods(pattern: str) -> Table:
    """From the cards."""
    table = _table("method", "adapts", "needs", "passes", "paper (licence of its code)")
    table.caption = "setting: tta unless said otherwise; passes: images forward + passes backward, per test image"
    entries = catalogue("methods").entries
    for name in matching(pattern, entries):
        entry = entries[name]
        if not entry.facts:  # inherited from another method
            table.add_row(name, escape(entry.heading))
            continue
        card = Card(**entry.facts)
        needs = [
            *([card.setting] if card.setting != "tta" else []),
            *(["source statistics"] if card.needs_source_statistics else []),
            *(["gradients"] if card.needs_gradients else []),
            *(f"{branch} branch" for branch in card.branches),
        ]
        what = card.adapts.replace(" of normalisation", "").replace("normalisation ", "")
        passes = f"{card.forwards} + {card.backwards}"
        table.add_row(*map(escape, (name, what, ", ".join(needs), passes, _origin(card))))
    return table


def _systems(pattern: str) -> Table:
    """From the cards."""
    table = _table("system", "setting", "needs", "adapts", "paper (licence of its code)")
    table.caption = "run by +adapt=NAME before the test; docs/settings.md says what a setting may see"
    entries = catalogue("systems").entries
    for name in matching(pattern, entries):
        card = SystemCard(**entries[name].facts)
        needs = ", ".join(need.replace("_", " ") for need in card.needs)
        table.add_row(*map(escape, (name, card.setting, needs, card.adapts, _origin(card))))
    return table


def _origin(card: Card | SystemCard) -> str:
    """The paper, the licence of its code, and what is ours."""
    return f"{card.paper} ({card.licence})" + (f"; {card.reconstruction}" if card.reconstruction else "")


def methods_page() -> str:
    """The table of ``docs/methods/README.md``, in Markdown."""
    lines = [
        "# Methods",
        "",
        "Made from the classes by `tta-bench list methods --markdown`. Forwards are images through the network per",
        "test image, the prediction included. The licence is that of the authors' code, of which nothing is copied.",
        "",
        "| method | adapts | statistics of the | source statistics | branch | forwards | backwards | paper | licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in catalogue("methods").entries.items():
        card = Card(**entry.facts)
        cells = (
            f"[`{name}`]({name}.md)",
            card.adapts,
            card.statistics,
            "needed" if card.needs_source_statistics else "",
            ", ".join(card.branches),
            card.forwards,
            card.backwards,
            card.paper + (f"; {card.reconstruction}" if card.reconstruction else ""),
            card.licence,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _described(registry: str, pattern: str) -> Table:
    """From the docstrings."""
    table = _table(registry.removesuffix("s"), "what it is")
    entries = catalogue(registry).entries
    for name in matching(pattern, entries):
        table.add_row(name, escape(re.sub(r":? ``\[.*?\]``|`", "", entries[name].heading)))
    return table


def _data(pattern: str) -> Table:
    table = _table("data", "what it is")
    built_in = (CONFIG_DIR / "data").glob("*.yaml")
    paths = {path.stem: path for path in (*(path for _, path in plugin_configs("data")), *built_in)}
    for name in matching(pattern, sorted(paths)):
        table.add_row(name, escape(heading(paths[name].read_text(encoding="utf-8"))))
    return table


def _recipes(pattern: str) -> Table:
    from tta_bench.data.recipes.recipe import load_recipe, recipe_names

    table = _table("recipe", "what it is", "images or volumes", "masks")
    for name in matching(pattern, recipe_names()):
        recipe = load_recipe(name)
        numbers = "\n".join(f"{domain} {number}" for domain, number in recipe.expected.items())
        table.add_row(name, *map(escape, (recipe.title, numbers, recipe.coding)))
    table.caption = (
        "tta-bench data prepare RECIPE RAW OUT; where to get each, licences and pitfalls: docs/prepare_data.md"
    )
    return table


def recipes_section() -> str:
    """The recipes in ``docs/prepare_data.md``: a table, and what is known of each release."""
    from tta_bench.data.recipes.recipe import load_recipe, recipe_names

    recipes = {name: load_recipe(name) for name in recipe_names()}
    lines = ["| recipe | release | domains, expected images or volumes | written for |", "| --- | --- | --- | --- |"]
    for name, recipe in recipes.items():
        numbers = ", ".join(f"{domain} {number}" for domain, number in recipe.expected.items()) or "as in the release"
        layouts = "`data=fundus`, `data=folder`" if recipe.fundus else "`data=folder`"
        lines.append(f"| [`{name}`](#{name}) | {recipe.title} | {numbers} | {layouts} |")
    for name, recipe in recipes.items():
        facts = {"Where": recipe.get, "Licence": recipe.licence, "Masks": recipe.coding}
        images = sorted({pattern for part in recipe.parts for pattern in part.images})
        lines += ["", f"### {name}", "", f"{recipe.title}.", ""]
        lines += [f"* {key}: {value}" for key, value in facts.items()]
        lines += [f"* Looks for: {', '.join(f'`{pattern}`' for pattern in images)}"]
        lines += [f"* Mind: {pitfall}" for pitfall in recipe.pitfalls]
    return "\n".join(lines) + "\n"


def _experiments(pattern: str) -> Table:
    table = _table("experiment", "what it is", "rows", "sweeps over")
    experiments = read_experiments()
    for name in matching(pattern, experiments):
        experiment = experiments[name]
        swept = {"source": "all", **experiment.sweep}
        swept.pop("branches", None)
        rows = len(experiment.rows) - len(experiment.controls)
        table.add_row(
            name,
            escape(experiment.description),
            f"{rows} + {len(experiment.controls)}",
            escape("\n".join(f"{key}: {value.replace(',', ', ')}" for key, value in swept.items())),
        )
    table.caption = "rows: of the table + controls (no_adapt, bn_only) that it does not list itself"
    return table
