"""Figures: the numbers drawn are those told, and the drawing fits any page."""

import re
from functools import cache
from itertools import product
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from tta_bench.metrics.dice import dice_score
from tta_bench.report.figures import (
    PALETTE,
    distributions,
    empirical_cosine,
    running_means,
    standalone,
    traces,
)
from tta_bench.report.statistics import mean_of_targets

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["No Adapt", "GraTa <b>", "50 % $x$ & co", 'say "é"']


def draws(label, *lengths):
    """Dice in percent that depend on the label alone."""
    rng = np.random.default_rng(len(label))
    return [rng.uniform(20, 100, length) for length in lengths]


def draw_figures(labels=NAMES):
    estimates = {label: {source: mean_of_targets(draws(label + source, 9, 5)) for source in "AB"} for label in labels}
    return {
        "dice-distributions": distributions({label: draws(label, 30)[0] for label in labels}, dice_score),
        "running-dice": running_means({label: draws(label, 30, 7) for label in labels}, dice_score, labels[0]),
        "trace-lr": traces({label: draws(label, 30, 7) for label in labels}, "trace-lr", "learning rate"),
        "empirical-cosine": empirical_cosine(estimates),
    }


figures = cache(draw_figures)
FIGURES = ["dice-distributions", "running-dice", "trace-lr", "empirical-cosine"]


def described(svg):
    return ElementTree.fromstring(svg).find(f"{SVG}desc").text


def test_descriptions_tell_the_numbers():
    assert "row: median 30.0, mean 40.0" in described(distributions({"row": [20, 30, 70]}, dice_score))
    assert "row from 20.0 to 45.0" in described(running_means({"row": [[20.0, 70.0]]}, dice_score))
    assert "row: 0.25" in described(traces({"row": [[0.25, 0.25]]}, "t", "cosine"))
    assert "row: A 0.500" in described(empirical_cosine({"row": {"A": mean_of_targets([[0.4, 0.6]])}}))


@pytest.mark.parametrize("figure", FIGURES)
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
        assert draw_figures() == first
        assert matplotlib.rcParams["font.size"] == 30


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
    svg = running_means({label: [[50.0, 50.0]] for label in labels}, dice_score, "row 0")
    assert all(f">{label}<" in svg for label in labels)
    assert len(svg) < 500_000
    assert "median 50.0" in distributions({label: [50.0, 50.0] for label in labels}, dice_score)
    assert empirical_cosine({label: {"A": mean_of_targets([[0.1]])} for label in labels}).count("<text") > 40


def test_a_legend_of_long_labels_does_not_leave_the_figure():
    labels = ["entropy", "entropy aligned with consistency", "consistency", "consistency aligned with entropy"]
    svg = empirical_cosine({label: {"A": mean_of_targets([[0.1, 0.2]])} for label in labels})
    legend = svg[svg.index('id="empirical-cosine-legend_1"') :]
    keys = [float(x) for x in re.findall(r"M (-?[\d.]+)", legend)]
    assert len(keys) == len(labels)
    assert min(keys) > 0
