"""What has to be known to read the numbers of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tta_bench.report.cells import STATES, distinct_cells
from tta_bench.report.checks import comparable_with_paper
from tta_bench.report.model import Comparison, SourceModelRecord, Table, repeated_by
from tta_bench.report.text import DASH, INCOMPLETE, case_mean, joined, number, reading, scored
from tta_bench.report.transfer import transfers


def audit_notes(table: Table) -> list[str]:
    """How an audit is read; none where none is asked for."""
    audit = table.audit
    if audit is None:
        return []
    wider = [row.label for row in audit.rows if row.widening is not None and row.widening.low > 0]
    narrower = [row.label for row in audit.rows if row.widening is not None and row.widening.high < 0]
    told = f" and left out: {audit.left_out} images without a value" if audit.left_out else ""
    return [
        f"By {audit.attribute}: mean over the images of each group, of an image over the sources{told}. Gap: between a "
        f"row's best and worst group; its difference to {table.reference} is that of the gains in {audit.best} and in "
        f"{audit.worst}, which are best and worst in that row. Above 0 a method widens the gap. Widened beyond chance "
        f"(interval above 0) by: {', '.join(wider) or 'none'}; narrowed by: {', '.join(narrower) or 'none'}."
    ]


def notes(table: Table) -> list[str]:
    """What has to be known to read the numbers, one or two sentences each."""
    images = {name: max(row.results[name].n for row in table.rows) for name in table.sources}
    counts = ", ".join(f"{n or DASH}" if table.stages else f"{name} {n or DASH}" for name, n in images.items())
    classes = f", then classes ({', '.join(table.classes)})" if table.classes else ""
    mean = f"{table.metric.in_unit}: mean over images{classes}, then target domains"
    spread = spread_told(table)
    repeats = f"Repeats: {len(table.seeds)}{f'; {spread}' if spread else ''}."
    if table.stages:
        lines = [f"{mean}.{reading(table.metric)}", *stage_notes(table), f"Images: {counts}. {repeats}"]
    else:
        average = f"; {table.average_name}: unweighted mean over the sources" if len(table.sources) > 1 else ""
        lines = [f"{mean}{average}.{reading(table.metric)}", f"Images per source model: {counts}. {repeats}"]
    if ours := [row.label for row in table.rows if row.reconstruction]:
        lines.append(
            f"Our reconstruction: {', '.join(ours)}. The authors' code and formulas are not published, and these "
            "numbers are not theirs."
        )
    if any(row.result(name).missing and row.result(name).value for row in table.rows for name in table.columns):
        lines.append(f"{INCOMPLETE}: some repeats are missing.")
    if packed := [row.label for row in table.rows if row.costs.packed]:
        lines.append(
            f"Several cells shared batches (launch.pack): {', '.join(packed)}. Time per image is that of a batch by "
            "its images, and the peak memory that of all these cells."
        )
    for kind in ("vs_reference", "vs_bn_only"):
        compared = {row.label: getattr(row, kind) for row in table.rows if getattr(row, kind) is not None}
        lines += _comparison_notes(compared, table) if compared else []
    lines += audit_notes(table)
    if table.has_paper and not comparable_with_paper(table):
        lines.append(
            "The paper's numbers are of other images or settings, its own network and protocol on five whole sets of "
            "fundus photographs: only the order of the rows can be compared."
        )
    said = ("name", "score_at")
    told = {key: value for key, value in table.protocol.items() if key not in said and (key, value) != ("empty", "one")}
    settings = ", ".join(f"{key} {joined(value, ', ')}" for key, value in told.items())
    limit = table.data["limit"]
    first = f", the first {limit} of each domain" if limit else ""
    lines.append(f"Protocol {table.protocol_hash}: {settings}, images of {table.data['image_size']} pixels{first}.")
    lines.append(scored(table.protocol, table.data))
    if any(case_mean(table, row, name) is not None for row in table.rows for name in table.columns):
        lines.append("Over whole cases: each volume is scored as one, mean over cases, then target domains.")
    if table.source_models:
        lines += [source_models_note(table), *examination_notes(table), *branch_notes(table)]
    return lines


def stage_notes(table: Table) -> list[str]:
    """How a table of training in stages is read; no line without stages."""
    if not table.stages:
        return []
    *_, last = table.stages
    line = (
        f"Trained on {', '.join(table.stages)}, one after the other. Averages, differences and p-values are of what is "
        f"left after stage {last}: the mean over all targets."
    )
    if not transfers(table):
        return [line]
    return [
        f"{line} BWT: by how much the earlier domains are better than right after their own stage (below 0 they are "
        "forgotten). FWT: what the stage of a domain adds there to what there was before. Models: how many there are."
    ]


def headline(table: Table) -> str:
    """Over which training seeds the numbers are, where they are over several; else empty."""
    seeds = sorted({cell.seed.training for cell in table.finished})
    if len(seeds) < 2:
        return ""
    repeats = Counter((cell.row, cell.cell.config.source) for cell in table.finished).values()
    fewest, most = min(repeats), max(repeats)
    several = f" over {f'{fewest} to ' * (fewest < most)}{most} repeats" if most > len(seeds) else ""
    return f"Mean{several} ± sample standard deviation over {len(seeds)} training seeds ({', '.join(map(str, seeds))})."


def spread_told(table: Table) -> str:
    """What the standard deviations of a table are over, as a clause; empty without several repeats."""
    level = repeated_by(table.seeds)
    if level is None:
        return ""
    count = len({seed[level] for seed in table.seeds})
    of_means = "" if count == len(table.seeds) else ", of each the mean of its repeats"
    kind = ("training seeds", "orders of the images", "seeds of the random draws")[level]
    return f"± is the sample standard deviation over the {count} {kind}{of_means}"


def source_models_note(table: Table) -> str:
    """In-domain Dice of every source model, and what auxiliary branches cost it where that is known."""
    parts = []
    for name, model in _named(table):
        cost = "" if model.branch_cost is None else f" (branches cost {number(model.branch_cost, form='+')})"
        parts.append(f"{name} {number(model.dice_in_domain)}{cost}")
    return f"In-domain Dice of the source models on held-out images: {'; '.join(parts)}."


def _named(table: Table) -> list[tuple[str, SourceModelRecord]]:
    """The source models, each by its domain, and by its training seed where there are several."""
    several = len({model.training_seed for model in table.source_models}) > 1
    return [
        (f"{model.source}, training seed {model.training_seed}:" if several else model.source, model)
        for model in table.source_models
    ]


def examination_notes(table: Table) -> list[str]:
    """What examining the source models has found; no line if none was examined."""
    found = {f"{name} {model.examination}": None for name, model in _named(table) if model.examination}
    return [f"Source models examined on their own domain: {'; '.join(found)}."] if found else []


def branch_notes(table: Table) -> list[str]:
    """Of which source models it is not known what their branches cost, and how to know; no line if it is of all."""
    sources = ", ".join(dict.fromkeys(model.source for model in table.source_models if model.lacks_twin))
    if not sources:
        return []
    return [
        f"What the branches of {sources} cost is not known: run +method=no_adapt with model.branches=[] and the same "
        "settings otherwise, which trains the source models without them."
    ]


def planned_cells(table: Table) -> int:
    """How many cells a table needs; one that stands for several seeds of a row counts once."""
    return len(distinct_cells(table.plan))


def missing_note(table: Table) -> str:
    """How many cells of which rows have no results, and why."""
    parts = []
    for row in table.rows:
        states = [cell.status for cell in table.missing if cell.row == row.label]
        counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
        parts += [f"{row.label} ({counts})"] if states else []
    note = f"{len(table.missing)} of {planned_cells(table)} cells have no results yet: {'; '.join(parts)}."
    stale = any(cell.status == "stale" for cell in table.missing)
    return note + (" Stale ones were computed by other code and do not count: run them again." if stale else "")


def _comparison_notes(comparisons: Mapping[str, Comparison], table: Table) -> list[str]:
    """How rows were compared with one of them, and where a comparison is unlike the others."""
    usual = max(comparisons.values(), key=lambda comparison: comparison.n)
    against = usual.against
    of_sources = f" of the sources {', '.join(usual.sources)}" if len(usual.sources) < len(table.sources) else ""
    mean = ", each with its mean over the source models" if len(usual.sources) > 1 else ""
    lines = [
        f"Minus {against}: paired on the same {usual.n} images{of_sources}{mean}, 95 % bootstrap interval; p: Wilcoxon "
        f"signed-rank test, Holm-corrected for {len(comparisons)} row{'s' if len(comparisons) > 1 else ''}."
    ]
    for label, comparison in comparisons.items():
        parts = []
        if comparison.n != usual.n:
            parts.append(f"{comparison.n} images")
        if comparison.sources != usual.sources:
            parts.append(f"sources {', '.join(comparison.sources)} alone")
        if comparison.excluded:
            parts.append(f"{comparison.excluded} excluded because a value is missing or not finite")
        lines += [f"{label} minus {against}: {', '.join(parts)}."] if parts else []
    return lines
