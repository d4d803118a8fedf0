"""Figures: the numbers drawn are those told, and the drawing fits any page."""

import os
import re
import subprocess
import sys
from functools import cache
from hashlib import md5
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from made_tables import finish, made_plan, planned
from tta_bench.launch.composition import composer
from tta_bench.metrics.base import METRICS
from tta_bench.metrics.dice import dice_score
from tta_bench.report.canvas import PALETTE, standalone
from tta_bench.report.comparison_figures import Priced, costs_and_gains, heat_map, image_numbers, intervals, spread
from tta_bench.report.figures import distributions, empirical_cosine, running_means, traces
from tta_bench.report.model import Comparison
from tta_bench.report.statistics import mean_of_targets, reliability
from tta_bench.report.swept import Swept, curves, swept_numbers
from tta_bench.report.tables import build_table

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["No Adapt", "GraTa <b>", "50 % $x$ & co", 'say "é"']


def draws(label, *lengths):
    """Dice in percent that depend on the label alone."""
    rng = np.random.default_rng(len(label))
    return [rng.uniform(20, 100, length) for length in lengths]


def compared(mean, p=0.5):
    return Comparison("no", mean, mean - 1, mean + 1, p, p, 9, 0, ("A",))


def swept_rows(labels):
    """Curves that leave zero the farther the larger the rate."""
    return {label: {rate: compared(rate * 300) for rate in (1e-4, 1e-3, 1e-1)} for label in labels}


def draw_figures(labels=NAMES):
    gains = {label: float(number) - 1 for number, label in enumerate(labels)}
    rng = np.random.default_rng(3)
    differences = [rng.normal(1, 5, (len(labels), images)) for images in (20, 50)]
    measured = reliability(differences, np.ones((len(labels), 2)))
    estimates = {label: {source: mean_of_targets(draws(label + source, 9, 5)) for source in "AB"} for label in labels}
    return {
        "dice-distributions": distributions({label: draws(label, 30)[0] for label in labels}, dice_score),
        "running-dice": running_means({label: draws(label, 30, 7) for label in labels}, dice_score, labels[0]),
        "trace-lr": traces({label: draws(label, 30, 7) for label in labels}, "trace-lr", "learning rate"),
        "empirical-cosine": empirical_cosine(estimates),
        "dice-heat-map": heat_map({label: {"A": g, "B": -g} for label, g in gains.items()}, gains, dice_score, "no"),
        "dice-intervals": intervals({"no": {label: compared(g) for label, g in gains.items()}}, dice_score),
        "dice-costs-and-gains": costs_and_gains({label: Priced(0, 3, 9) for label in labels}, dice_score, "no"),
        "dice-image-numbers": image_numbers(measured, dice_score),
        "dice-swept": curves(Swept("method.learning_rate", swept_rows(labels)), dice_score, "no"),
    }


@cache
def drawn_figures():
    """Once for all tests that only look at them."""
    return draw_figures()


def figures():
    return {name: drawn.svg for name, drawn in drawn_figures().items()}


WITHOUT_LABELS = "dice-image-numbers"
FIGURES = ["dice-distributions", "running-dice", "trace-lr", "empirical-cosine"]
FIGURES += ["dice-heat-map", "dice-intervals", "dice-costs-and-gains", "dice-swept", WITHOUT_LABELS]


def described(drawn):
    return ElementTree.fromstring(drawn.svg).find(f"{SVG}desc").text


def test_descriptions_tell_the_numbers():
    assert "row: median 30.0, mean 40.0" in described(distributions({"row": [20, 30, 70]}, dice_score))
    assert "row from 20.0 to 45.0" in described(running_means({"row": [[20.0, 70.0]]}, dice_score))
    assert "row: 0.25" in described(traces({"row": [[0.25, 0.25]]}, "t", "cosine"))
    assert "row: A 0.500" in described(empirical_cosine({"row": {"A": mean_of_targets([[0.4, 0.6]])}}))
    assert described(heat_map({"row": {"A": 1.26}}, {"row": -2.0}, dice_score, "no")) == "row: A +1.3, average -2.0."
    assert "minus no: row -2.00 [-3.00, -1.00]" in described(intervals({"no": {"row": compared(-2.0)}}, dice_score))
    priced = {"row": Priced(-1.5, 3, 20), "no": Priced(0, 1, 10)}
    assert described(costs_and_gains(priced, dice_score, "no")).startswith("row: -1.50, 3.0 passes, 20 ms; no: +0.00")


@pytest.mark.parametrize("figure", [name for name in FIGURES if name != WITHOUT_LABELS])
def test_every_label_is_written_as_it_is_called(figure):
    root = ElementTree.fromstring(figures()[figure])
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert all(name in texts for name in NAMES), texts


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_takes_the_colours_of_its_page(figure):
    svg = figures()[figure]
    assert "currentColor" in svg
    assert "<style" not in svg, "it would hold for the whole page"
    colours = set(re.findall(r"#[0-9a-f]{6}\b", svg))
    assert colours <= {*PALETTE}, "ink is currentColor, the background is not drawn"
    texts = ElementTree.fromstring(svg).iter(f"{SVG}text")
    assert all("currentColor" in text.get("style", "") for text in texts)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_file_of_its_own_has_colours_of_its_own_on_light_and_dark_pages(figure):
    inline = figures()[figure]
    root = ElementTree.fromstring(standalone(inline))
    title, description, style, ground = list(root)[:4]
    assert [each.tag for each in (title, description, ground)] == [f"{SVG}title", f"{SVG}desc", f"{SVG}rect"]
    assert (ground.get("width"), ground.get("height")) == ("100%", "100%"), "below all that is drawn"
    assert "prefers-color-scheme: dark" in style.text
    for ink, page in zip(
        re.findall(r"[{ ]color: (#\w{6})", style.text), re.findall(r"fill: (#\w{6})", style.text), strict=True
    ):
        bright, dark = sorted((luminance(ink), luminance(page)), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 7
    assert len(root) == len(ElementTree.fromstring(inline)) + 2, "all else is as it was"


def test_identifiers_are_unique_over_all_figures_of_a_page_and_every_reference_is_kept():
    svgs = figures()
    identifiers = [identifier for svg in svgs.values() for identifier in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(identifiers) == len(set(identifiers))
    for name, svg in svgs.items():
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
        assert {a or b for a, b in used} <= set(re.findall(r'\bid="([^"]+)"', svg))
        root = ElementTree.fromstring(svg)
        assert root.get("aria-labelledby") == f"{name}-title {name}-desc"
        assert (root.get("role"), root.find(f"{SVG}title") is not None) == ("img", True)


def test_the_same_numbers_give_the_same_file_whatever_the_users_settings():
    first = figures()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        again = draw_figures()
        assert {name: drawn.svg for name, drawn in again.items()} == first
        assert matplotlib.rcParams["font.size"] == 30


def test_files_for_print_are_the_same_in_every_process_and_have_the_fonts_that_journals_take():
    told = "hashlib.md5(drawn.pdf).hexdigest() for drawn in test_figures.draw_figures().values()"
    program = f"import test_figures, hashlib; print(*({told}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    environment["PYTHONHASHSEED"] = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another than here
    told = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert told.split() == [md5(drawn.pdf).hexdigest() for drawn in drawn_figures().values()]
    assert len(told.split()) == len(FIGURES)
    for drawn in drawn_figures().values():
        assert drawn.pdf.startswith(b"%PDF")
        assert (b"/Type3" in drawn.pdf, b"/Subtype /Type3" in drawn.pdf) == (False, False)


@pytest.mark.parametrize("images", [1, 3])
def test_images_along_a_stream_are_counted_in_whole_numbers(images):
    svg = running_means({"tent": [np.full(images, 50.0)]}, dice_score).svg
    groups = ElementTree.fromstring(svg).iter(f"{SVG}g")
    ticks = ["".join(each.itertext()).strip() for each in groups if "-xtick_" in each.get("id", "")]
    assert ticks == [str(number) for number in range(1, images + 1)]


def fills(svg):
    """Fill and opacity of the cells of a heat map."""
    styles = re.findall(r'<path d="[^"]*z[^"]*"[^>]*style="([^"]*)"', svg)
    pairs = [(re.search("fill: (#\\w+)", style), re.search("opacity: ([0-9.]+)", style)) for style in styles]
    return [(colour[1], float(opacity[1])) for colour, opacity in pairs if colour and opacity]


def test_colours_of_the_heat_map_are_symmetric_around_zero_and_turn_with_what_is_better():
    blue, vermilion = PALETTE[:2]
    drawn = {"up": {"A": 4.0, "B": -4.0}, "down": {"A": -2.0, "B": 1.0}}
    cells = fills(heat_map(drawn, {"up": 0.0, "down": -0.5}, dice_score, "no").svg)
    assert [colour for colour, _ in cells][:2] == [blue, vermilion]
    assert cells[0][1] == cells[1][1] == 2 * cells[2][1] == 4 * cells[3][1]
    other = fills(heat_map(drawn, {"up": 0.0, "down": -0.5}, METRICS.get("hd95"), "no").svg)
    assert [colour for colour, _ in other][:2] == [vermilion, blue]


def test_numbers_can_be_read_on_the_strongest_colour_of_light_and_dark_pages():
    for colour in PALETTE[:2]:
        for page, ink in (("#ffffff", "#1c2126"), ("#14171a", "#e7eaed")):
            mixed = [round(0.65 * int(colour[i : i + 2], 16) + 0.35 * int(page[i : i + 2], 16)) for i in (1, 3, 5)]
            bright, dark = sorted((luminance(ink), luminance("#{:02x}{:02x}{:02x}".format(*mixed))), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("count", [1, 2, 12, 40])
def test_labels_beside_the_marks_never_overlap(count):
    rng = np.random.default_rng(count)
    wanted = np.sort(rng.choice([0.0, 0.5, 1.0, 0.51], count))
    places = spread(wanted, 1 / count)
    assert np.all(np.diff(places) >= 1 / count - 1e-9)
    assert (places[0] >= -1e-9, places[-1] <= 1 + 1e-9) == (True, True)
    svg = costs_and_gains({f"row {n}": Priced(float(w), 2, 5) for n, w in enumerate(wanted)}, dice_score, "row 0").svg
    heights = sorted(float(y) for y in re.findall(r'<text[^>]* y="([0-9.]+)"[^>]*>row \d+</text>', svg))
    assert len(heights) == count
    assert np.all(np.diff(heights) >= 8.5), "points, the size of the letters"


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(("colour", "page"), [*product(PALETTE, ["#ffffff", "#14171a"])])
def test_marks_stand_out_from_light_and_dark_pages(colour, page):
    bright, dark = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 3


def test_forty_rows_and_equal_values_can_be_drawn():
    labels = [f"row {number}" for number in range(40)]
    svg = running_means({label: [[50.0, 50.0]] for label in labels}, dice_score, "row 0").svg
    assert all(f">{label}<" in svg for label in labels)
    assert len(svg) < 500_000
    assert "median 50.0" in described(distributions({label: [50.0, 50.0] for label in labels}, dice_score))
    assert empirical_cosine({label: {"A": mean_of_targets([[0.1]])} for label in labels}).svg.count("<text") > 40


def test_a_legend_of_long_labels_does_not_leave_the_figure():
    labels = ["entropy", "entropy aligned with consistency", "consistency", "consistency aligned with entropy"]
    svg = empirical_cosine({label: {"A": mean_of_targets([[0.1, 0.2]])} for label in labels}).svg
    legend = svg[svg.index('id="empirical-cosine-legend_1"') :]
    keys = [float(x) for x in re.findall(r"M (-?[\d.]+)", legend)]
    assert len(keys) == len(labels)
    assert min(keys) > 0


@pytest.mark.parametrize(
    ("option", "method", "system", "name"),
    [
        ("method.learning_rate", "tent", None, "tent"),
        ("adapt.labels", "no_adapt", "fta", "fta"),
        ("adapt.labels", "tent", "fta", "fta tent"),
    ],
)
def test_rows_that_differ_in_one_number_make_a_curve(tmp_path, option, method, system, name):
    curve = {1: 1.0, 2: 2.0, 8: 4.0}
    with composer() as hydra:
        section = hydra.compose([f"adapt={system}"]).adapt if system else {}

    def settings(value):
        if system is None:
            return {"method": method, option: value}
        return {"method": method, "adapt": {**section, "labels": value}}

    rows = {"no_adapt": {"method": "no_adapt"}} | {f"{name} {value}": settings(value) for value in curve}
    cells = {label: planned(tmp_path, label, values) for label, values in rows.items()}
    for entry, gain in zip(cells.values(), (0, *curve.values()), strict=True):
        finish(entry.cell, lambda target, index, gain=gain: 50 + gain)
    found = swept_numbers(build_table(made_plan([*cells.values()], rows=rows)))
    assert found.option == option
    assert {called: {value: each.mean for value, each in drawn.items()} for called, drawn in found.curves.items()} == {
        name: pytest.approx(curve)
    }
    assert swept_numbers(build_table(made_plan([cells["no_adapt"], cells[f"{name} 1"]]))) is None
