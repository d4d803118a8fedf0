"""The page's tables: what is in sight, what is behind a toggle, and what a phone and a printer make of them."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input"}


class Tables(HTMLParser):
    """Its tables: class, the classes of what they lie in, headings, and per row the labels of its cells."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.open, self.heading = [], [], None
        self.feed(re.sub("<svg.*?</svg>", "", text, flags=re.DOTALL))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "table":
            self.tables.append({"class": values.get("class", ""), "in": [*self.open], "heads": [], "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag == "td":
            self.tables[-1]["rows"][-1].append(values.get("data-label"))
        elif tag == "th" and values.get("scope") == "col":
            self.tables[-1]["heads"].append("")
            self.heading = True
        elif tag == "span":
            self.heading = None
        if tag not in VOID:
            self.open.append(values.get("class", ""))

    def handle_data(self, data):
        if self.heading:
            self.tables[-1]["heads"][-1] += data.strip()

    def handle_endtag(self, tag):
        self.heading = None if tag == "th" else self.heading
        self.open.pop()


def test_the_main_table_has_means_and_the_difference_alone_and_lies_in_no_box(page):
    main, tests, costs, *targets = (each for each in Tables(page).tables if "results" in each["class"])
    assert main["heads"] == ["row", "A", "B", "average", "minus no_adapt"]
    assert len(main["rows"]) == 5
    assert "toggled" not in main["in"]
    assert [each["heads"][1] for each in (tests, costs)] == ["p of minus no_adapt", "time"]
    assert [each["heads"][1:] for each in targets] == [
        ["disc", "cup"],
        *[[f"{t} {c}" for t in "CD" for c in ("disc", "cup", "mean")]] * 2,
    ]
    assert all("toggled" in each["in"] for each in (tests, costs, *targets))
    assert all("scroll" not in around for each in Tables(page).tables for around in each["in"])


def test_on_a_phone_every_value_has_its_heading_beside_it(page):
    tables = Tables(page).tables
    assert len(tables) == 8, "three of results, three of targets, source models, what is missing"
    for each in tables:
        assert "cards" in each["class"]
        _, *rows = each["rows"]
        assert all(len(row) == len(each["heads"]) - 1 and all(row) for row in rows)


def rules(page):
    """At-rule, empty outside of any, -> selector -> declarations."""
    css = re.search("<style>(.*?)</style>", page, re.DOTALL)[1]
    found = {"": css}
    for at in re.finditer(r"@media ([^{]+?) *\{((?:[^{}]*\{[^{}]*\})*[^{}]*)\}", css):
        found[at[1]] = found.get(at[1], "") + at[2]
        found[""] = found[""].replace(at[0], "")
    return {name: dict(re.findall(r"([^{};]+?) *\{([^{}]*)\}", text)) for name, text in found.items()}


def test_what_is_hidden_on_a_screen_is_printed_and_headings_stay_in_sight(page):
    css = {at: {key.strip(): value for key, value in each.items()} for at, each in rules(page).items()}
    hidden = [(at, key) for at, each in css.items() for key, value in each.items() if "display: none" in value]
    assert hidden == [
        ("screen", ".toggle:not(:checked) + label + .toggled"),
        ("screen and (max-width: 40rem)", ".cards thead"),
        ("print", ".skip, nav, .toggle"),
    ]
    assert "position: sticky; top: 0" in css[""]["thead th"]
    assert "position: sticky; left: 0" in css[""][".results thead th:first-child, .results tbody th"]
    assert "overflow: visible" in css["print"][".scroll"]
    assert "overflow" not in "".join(
        value for key, value in css[""].items() if "table" in key or "results" in key
    ).replace("overflow-wrap", "")
    labels = re.findall(r'class="toggle"><label for="([^"]+)"', page)
    assert (
        labels
        == re.findall(r'<input type="checkbox" id="([^"]+)"', page)
        == ["show-tests", "show-costs", "show-targets"]
    )
    assert len(re.findall(r'</label>\s*<div class="toggled">', page)) == 3
