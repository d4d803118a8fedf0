"""The HTML report in a browser of any width and colour scheme, on a screen and in print."""

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from made_tables import EXAMINATION, finish, made_plan, planned, simple_plan
from tta_bench.report.drawings import picture_files
from tta_bench.report.formats.html import write as html_page
from tta_bench.report.tables import build_table

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium, page, tmp_path):
    """Open the page; afterwards there must have been no message and no request."""
    file = tmp_path / "index.html"
    faults = []

    def opened(width=1280, scheme="light", content=page, **more):
        file.write_text(content, encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **more)
        tab = context.new_page()
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda request: faults.append(request.url) if request.url != file.as_uri() else None)
        tab.goto(file.as_uri())
        return tab

    yield opened
    assert [fault for fault in faults if not fault.startswith("data:")] == []


@pytest.fixture(scope="module")
def wide_page(tmp_path_factory):
    """Every source, each with a spread over two seeds and the paper's number; the longest name of a method."""
    paper = {"domain_adaptor": dict.fromkeys((*"ABCDE", "average"), 70.0)}
    gains = {"no_adapt": 0.0, "domain_adaptor": lambda source, seed, target, index: -20.0 + 3 * seed + 7 * index}
    root = tmp_path_factory.mktemp("wide")
    return html_page(build_table(simple_plan(root, gains, tuple("ABCDE"), seeds=(0, 1), paper=paper)))


@pytest.fixture(scope="module")
def weak_page(tmp_path_factory):
    """A page with six warnings."""
    root = tmp_path_factory.mktemp("weak")
    about = {"dice_in_domain": 40.0, "examination": {**EXAMINATION, "dice": 40.0, "images": "training"}}
    cells = [planned(root, label, {"method": label}, source) for label in ("no_adapt", "tent") for source in "AB"]
    for cell in cells[1:]:
        finish(
            cell.cell,
            lambda *_: 50.0,
            source_checkpoint={"path": "x.ckpt", "sha256": "0" * 64, **about},
            skipped_updates=3,
        )
    return html_page(build_table(made_plan(cells)))


OVERLAPS = """() => {
  const blocks = [...document.querySelectorAll("h1, h2, h3, p, li, figcaption, .scroll, pre")]
    .map((element) => [element, element.getBoundingClientRect()]).filter(([, box]) => box.height > 0);
  const found = [];
  blocks.forEach(([a, p], i) => blocks.slice(i + 1).forEach(([b, q]) => {
    const meet = Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
      && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1;
    if (meet && !a.contains(b) && !b.contains(a)) found.push([a.textContent.slice(0, 40), b.textContent.slice(0, 40)]);
  }));
  return found;
}"""

CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => channels(colour).slice(0, 3)
    .map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = {};
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || ["STYLE", "SCRIPT", "title", "desc"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    const [low, high] = [luminance(colour), luminance(ground(element))].sort((a, b) => a - b);
    found[texts.currentNode.data.trim().slice(0, 30)] = (high + 0.05) / (low + 0.05);
  }
  return found;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280, 1920])
def test_the_page_fits_and_reads_well(look, width, scheme):
    tab = look(width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.body.scrollWidth") <= width
    assert tab.evaluate(OVERLAPS) == []
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}
    dark = "rgb(20, 23, 26)"
    assert (tab.evaluate("getComputedStyle(document.body).backgroundColor") == dark) == (scheme == "dark")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_file_of_a_figure_can_be_read_on_any_page(chromium, drawn, scheme):
    tab = chromium.new_page(color_scheme=scheme)
    for name, svg in picture_files(drawn).items():
        if name.endswith(".svg"):
            address = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
            tab.set_content(f'<body style="background: black"><img src="{address}">')
            with Image.open(io.BytesIO(tab.locator("img").screenshot())) as picture:
                grey = np.asarray(picture.convert("L")).astype(int)
            assert abs(grey[2, 2] - (255 if scheme == "light" else 22)) < 3, name
            assert np.sum(abs(grey - grey[2, 2]) > 180) > 1000, f"{name}: text and axes stand out"


@pytest.mark.browser
def test_sort_buttons_have_names_of_their_own(look):
    tab = look()
    tab.get_by_label("p-values and differences").check()
    for row in ("no_adapt", "bn_only"):
        assert tab.get_by_role("button", name=f"p of minus {row}").count() == 1


@pytest.mark.browser
def test_the_keyboard_reaches_everything_and_shows_where_it_is(look):
    tab = look(360)
    reached = []
    for _ in range(80):
        tab.keyboard.press("Tab")
        text, label, width, left = tab.evaluate(
            """() => { const e = document.activeElement; return [e.textContent.slice(0, 30),
            e.getAttribute("aria-label"), getComputedStyle(e).outlineWidth, e.getBoundingClientRect().left]; }"""
        )
        if tab.evaluate("document.activeElement === document.body"):
            break
        assert (width, left >= 0) == ("3px", True), (text, label)
        reached.append(label or text)
    assert reached[0] == "Skip to the results"
    for wanted in ("Dice of every image, figure", "Segmentations, scrolls sideways", "Commands"):
        assert wanted in reached
    tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    tab.reload()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


@pytest.mark.browser
def test_a_column_is_sorted_by_its_button_and_what_is_missing_stays_last(look):
    tab = look()

    def labels():
        return tab.evaluate(
            "[...document.querySelector('.sortable').querySelectorAll('tbody th')].map((th) => th.dataset.value)"
        )

    assert labels() == ["no_adapt", "bn_only", "tent", "grata"]
    button = tab.locator(".sortable thead button").nth(1)  # source A, without tent
    button.focus()
    tab.keyboard.press("Enter")
    assert labels() == ["grata", "bn_only", "no_adapt", "tent"]
    heads = tab.locator(".sortable thead th")
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    button.click()
    assert labels() == ["no_adapt", "bn_only", "grata", "tent"]
    tab.locator(".sortable thead button").first.click()
    assert labels() == ["tent", "no_adapt", "grata", "bn_only"]
    assert heads.nth(1).get_attribute("aria-sort") is None
    for _ in range(2):
        tab.locator(".sortable thead button").first.click()
    assert labels() == ["no_adapt", "bn_only", "tent", "grata"], "the third press restores the order"


@pytest.mark.browser
def test_the_head_stays_in_sight_while_the_page_scrolls(look):
    tab = look()
    top = tab.evaluate(
        """() => { document.querySelector(".results tbody tr:nth-child(2)").scrollIntoView(true);
        return document.querySelector(".results thead th").getBoundingClientRect().top; }"""
    )
    assert abs(top) <= 1


@pytest.mark.browser
def test_further_tables_are_behind_toggles_and_all_are_printed(look):
    tab = look(java_script_enabled=False)
    tables = tab.locator(".toggled > table")
    assert [each.is_visible() for each in tables.all()] == [False] * 5
    tab.get_by_label("Costs").check()
    assert [each.is_visible() for each in tables.all()] == [False, True, False, False, False]
    tab.emulate_media(media="print")
    assert all(each.is_visible() for each in tables.all())


@pytest.mark.browser
def test_on_a_phone_two_warnings_are_shown_the_rest_is_behind_a_toggle_and_all_are_printed(look, weak_page):
    tab = look(360, content=weak_page, java_script_enabled=False)
    warnings = tab.locator(".warnings li")
    assert [each.is_visible() for each in warnings.all()] == [True, True, False, False, False, False]
    assert tab.get_by_text("6 warnings", exact=True).is_visible()
    assert tab.locator(".warnings").bounding_box()["height"] < 500, "what the table is about is on the first screen"
    tab.get_by_label("4 more").check()
    assert all(each.is_visible() for each in warnings.all())
    tab.reload()
    tab.emulate_media(media="print")
    assert all(each.is_visible() for each in warnings.all())


@pytest.mark.browser
def test_in_print_no_figure_is_taller_than_a_page_and_heads_are_no_boxes(look):
    tab = look(round(273 / 25.4 * 96))  # A4 landscape without margins
    tab.emulate_media(media="print")
    heights = tab.evaluate("[...document.querySelectorAll('svg.figure')].map((e) => e.getBoundingClientRect().height)")
    assert len(heights) == 9
    assert max(heights) < 150 / 25.4 * 96, "186 mm are a page, the rest is of heading and caption"
    shown = "[...document.querySelectorAll('thead button')].map((e) => getComputedStyle(e).display)"
    assert {*tab.evaluate(shown)} == {"contents"}, "Chromium leaves boxes out of heads that it repeats on each page"


@pytest.mark.browser
def test_a_checkbox_stands_beside_its_label_on_a_phone(look):
    places = """[...document.querySelectorAll(".toggle")].map((e) => [e, e.nextElementSibling])
      .map(([box, label]) => [box.getBoundingClientRect(), label.getBoundingClientRect()])
      .map(([box, label]) => box.left < label.left && box.top < label.bottom && box.bottom > label.top)"""
    assert look(360).evaluate(places) == [True] * 3


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 1920])
def test_five_sources_with_the_papers_numbers_fit_and_break_no_name(look, wide_page, width):
    tab = look(width, content=wide_page)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    lines = """[...document.querySelector(".results").querySelectorAll("tbody th")].map((th) => {
      const range = document.createRange();
      range.selectNodeContents(th.firstChild);
      return range.getClientRects().length;
    })"""
    assert {*tab.evaluate(lines)} == {1}
    assert tab.locator(".results").first.locator("thead th").count() == 8


@pytest.mark.browser
def test_without_scripts_the_page_is_complete_and_its_buttons_are_plain_headings(look):
    tab = look(java_script_enabled=False)
    assert tab.locator(".sortable").first.locator("tbody tr").count() == 4
    assert tab.locator("svg.figure").count() == 9
    assert tab.locator(".sortable thead button").first.is_visible()
