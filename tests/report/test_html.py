"""The HTML report: complete, escaped, and what its figures say."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from fabricated import fabricated_plan, fabricated_table
from rich.console import Console

from made_tables import finish, made_plan, planned, texts_of, undrawn
from tta_bench.metrics.base import METRICS
from tta_bench.metrics.dice import dice_score
from tta_bench.report.drawings import figures, picture_files
from tta_bench.report.formats.html import best_rows, commands, number, p_value, protocol_sentences, signed
from tta_bench.report.formats.html import write as html_page
from tta_bench.report.notes import notes
from tta_bench.report.streams import Stream, StreamKey, streams_of
from tta_bench.report.tables import build_table
from tta_bench.report.text import DASH
from tta_bench.report.write import summary_table, write_report

VOID = {"meta", "link", "br", "input", "img", "path", "use", "rect"}


class Outline(HTMLParser):
    """Headings, identifiers and addresses of a page; fails where elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.ids, self.addresses = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [value for key, value in attributes if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def words(page):
    """The page's text without figures, in single spaces."""
    text = re.sub(r"<(svg|style|script).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_every_number_of_the_table_is_on_the_page(page, table):
    text = words(page)
    for row in table.rows:
        for column in table.columns:
            dice = row.result(column).value
            assert dice is None or f"{dice:.2f}" in text
        if row.vs_reference is not None:
            gain = row.vs_reference
            assert f"{signed(gain.mean)} [{signed(gain.low)}, {signed(gain.high)}]" in text
            assert p_value(gain.p_holm) in text or "&lt; 0.001" in text
    assert table.protocol_hash in text
    assert all(model.sha256[:12] in text and "91.25" in text for model in table.source_models)
    assert "1,234" in text, "megabytes"
    assert "torch 2.15.0" in text


def test_a_cost_of_branches_that_is_not_known_is_named(page, table, drawn):
    models = [model._replace(lacks_twin=model.source == "A") for model in table.source_models]
    sentence = "What the branches of A cost is not known: run +method=no_adapt with model.branches=[]"
    unknown = replace(table, source_models=tuple(models), drawings=drawn)
    assert sentence in words(html_page(unknown))
    assert sentence in "\n".join(notes(unknown))
    assert "What the branches" not in words(page)


def test_what_is_missing_is_marked_and_listed(page, table):
    text = words(page)
    assert "7 of 8 cells are finished" in text
    (gone,) = table.missing
    assert f"What is missing row source seed status cell error tent A {gone.seed} missing {gone.hash}" in text
    assert re.search(r"tent missing [\d.]+ missing", text), "of source A, and so of the average"
    assert "of source B only" in text


def test_the_page_needs_nothing_from_outside(page):
    addresses = Outline(page).addresses
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_is_well_formed_with_headings_in_order_and_targets_for_its_links(page):
    outline = Outline(page)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(outline.headings, outline.headings[1:], strict=False))
    assert len(outline.ids) == len(set(outline.ids))
    assert {address[1:] for address in outline.addresses if address.startswith("#")} <= set(outline.ids)


def test_the_figures_are_those_that_there_are_values_for(page, table, tmp_path):
    titles = ["Dice per image", "Mean Dice along the stream"]
    titles += ["cosine along", "learning rate along", "supervised gradient"]
    assert all(re.search(rf"<title [^>]*>[^<]*{title}", page) for title in titles)
    assert 'alt="Segmentations with source B' in page
    cells = tuple(entry for entry in table.plan.cells if entry.row in ("no_adapt", "bn_only"))
    plain = html_page(build_table(replace(table.plan, cells=cells)))
    drawn = [title for title in titles if re.search(rf"<title [^>]*>[^<]*{title}", plain)]
    assert drawn == titles[:2]


SEED_1 = {"training.seed": 1}


def made_table(root, *cells):
    """A table of (method, source, Dice in percent or None if not finished, what its configuration changes) each."""
    plan_cells = []
    for method, source, dice, *more in cells:
        entry = planned(root, method, {"method": method} | dict(*more), source)
        plan_cells.append(entry)
        if dice is not None:
            finish(entry.cell, lambda target, index, dice=dice: dice)
    return build_table(made_plan(plan_cells, sweep={"training.seed": "0,1"}))


def test_mean_and_spread_over_training_seeds_are_the_headline(tmp_path):
    cells = [("no_adapt", "A", 50), ("no_adapt", "A", 60, SEED_1), ("tent", "A", 61), ("tent", "A", 73, SEED_1)]
    tables = made_table(tmp_path, *cells), made_table(tmp_path, *cells[::2])
    several, one = map(undrawn, tables)
    sentence = "Mean ± sample standard deviation over 2 training seeds (0, 1)."
    of_one = texts_of(one)
    for name, text in texts_of(several).items():
        if not name.endswith("csv"):
            assert sentence.replace("±", r"\ensuremath{\pm}") in text or sentence in text, name
            assert "standard deviation over 2" not in of_one[name], name
    page = html_page(several)
    assert "67.00 ± 8.49" in words(page)
    assert "ONLY ONE TRAINING SEED" not in page
    assert "ONLY ONE TRAINING SEED (0)" in html_page(one)
    console = Console(file=io.StringIO(), width=80)
    console.print(summary_table(several))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    at = next(index for index, line in enumerate(lines) if line[:2] == ["tent", "67.00"])
    assert lines[at + 1] == ["±8.49"]
    assert sentence.split()[:3] in [line[:3] for line in lines]


def told(figure):
    """What the description of a figure says of the rows."""
    return re.search("<desc[^>]*>(.*?)</desc>", figure.picture.svg)[1]


def left_out(figure):
    """The sentence of its caption on what is not drawn."""
    _, _, streams = figure.caption.partition("Not drawn, because not every row has finished the same streams: ")
    return streams


def test_rows_are_drawn_over_the_streams_that_all_of_them_have_finished(tmp_path):
    table = made_table(
        tmp_path,
        ("no_adapt", "A", 90),
        ("no_adapt", "B", 20),
        ("grata", "A", 92),
        ("grata", "B", None),
        ("tent", "A", None),
    )
    distributions, curves = figures(table, streams_of(table))
    assert told(distributions).endswith("no_adapt: median 90.0, mean 90.0, grata: median 92.0, mean 92.0.")
    assert told(curves) == "no_adapt from 90.0 to 90.0, grata from 92.0 to 92.0. Dashed: no_adapt."
    assert left_out(distributions) == left_out(curves) == "row tent; source B."


def test_a_row_without_a_stream_in_common_is_left_out_alone(tmp_path):
    table = made_table(
        tmp_path,
        ("no_adapt", "A", 50),
        ("no_adapt", "A", 60, SEED_1),
        ("tent", "A", None),
        ("tent", "A", 70, SEED_1),
        ("grata", "B", 80),
    )
    _, curves = figures(table, streams_of(table))
    assert told(curves) == "no_adapt from 60.0 to 60.0, tent from 70.0 to 70.0. Dashed: no_adapt."
    assert left_out(curves) == "row grata; source B; some repeats of source A."


def test_without_the_reference_the_others_are_drawn_and_nothing_is_said_to_be_dashed(tmp_path):
    table = made_table(tmp_path, ("no_adapt", "A", None), ("tent", "A", 70), ("grata", "A", 80))
    _, curves = figures(table, streams_of(table))
    assert told(curves) == "tent from 70.0 to 70.0, grata from 80.0 to 80.0."
    assert "Dashed" not in curves.caption
    assert left_out(curves) == "row no_adapt."


def test_a_stream_counts_once_however_many_of_its_adaptation_seeds_are_finished(tmp_path):
    table = made_table(tmp_path, ("no_adapt", "A", 50), ("no_adapt", "B", 50), ("grata", "A", 0), ("grata", "B", 0))
    streams = streams_of(table)
    streams["grata"] = [
        Stream(key, [{"dice": dice}] * 3)
        for key in (stream.key for stream in streams["no_adapt"])
        for dice in (["70", "80", "90"] if key.source == "A" else ["40"])
    ]
    distributions, curves = figures(table, streams)
    assert "grata from 60.0 to 60.0" in told(curves)
    assert "grata: median 60.0, mean 60.0" in told(distributions)
    assert left_out(curves) == ""


def test_bars_of_a_source_are_of_the_same_streams(tmp_path):
    table = made_table(tmp_path, ("no_adapt", "A", 50), ("tent", "A", 50), ("grata", "A", 50), ("grata", "B", 50))

    def stream(source, training, cosine):
        return Stream(StreamKey(source, "C", training, 0), [{"dice": "50", "cosine_empirical": cosine}] * 2)

    streams = {
        "no_adapt": [stream("A", 0, "")],
        "tent": [stream("A", 0, "0.25")],
        "grata": [stream("A", 0, "0.5"), stream("A", 1, "0.75"), stream("B", 0, "1")],
    }
    assert told(figures(table, streams)[-1]) == "tent: A 0.250; grata: A 0.500, B 1.000."


def test_the_figures_of_comparisons_say_what_the_table_says(table, drawn):
    by_target, intervals, costs, reliability = drawn.figures[:4]
    grata = next(row.vs_reference for row in table.rows if row.label == "grata")
    assert f"average {grata.mean:+.1f}" in told(by_target).partition("grata: ")[2].partition(";")[0]
    assert f"grata {grata.mean:+.2f} [{grata.low:+.2f}, {grata.high:+.2f}]" in told(intervals)
    assert f"grata: {grata.mean:+.2f}" in told(costs)
    assert "no_adapt: +0.00" in told(costs)
    assert told(reliability).count("images: median width") >= 3
    assert f"than these {grata.n} scatter" in reliability.caption
    assert all("tent" in each.caption for each in (by_target, intervals, reliability)), "it lacks source A"
    assert "Left out, not of all sources: tent." in reliability.caption


def test_every_figure_is_in_the_folder_of_the_report_and_in_its_markdown(table, tmp_path):
    text = write_report(table, tmp_path)[0].read_text()
    named = re.findall(r"^!\[.*\]\((figures/.*)\)$", text, re.MULTILINE)
    assert len(named) == 9
    assert all((tmp_path / name).is_file() and (tmp_path / name).with_suffix(".pdf").is_file() for name in named)


def test_files_of_figures_have_colours_of_their_own_and_those_of_the_page_take_its(drawn, page):
    files = {name: content for name, content in picture_files(drawn).items() if name.endswith(".svg")}
    assert len(files) == 9
    assert all('<rect class="ground"' in content for content in files.values())
    assert 'class="ground"' not in page


def test_a_cell_that_stands_for_several_seeds_counts_once(table):
    twice = replace(table.plan, cells=table.plan.cells * 2)
    assert "7 of 8 cells are finished" in words(html_page(undrawn(build_table(twice))))


def test_no_two_buttons_of_the_table_are_called_the_same(page):
    names = [re.sub("<.*?>", "", text) for text in re.findall("<button[^>]*>(.*?)</button>", page)]
    assert len(names) == len(set(names)) == 15
    assert {"p of minus no_adapt", "p of minus bn_only"} <= {*names}


def test_no_two_heads_of_a_table_look_the_same(page):
    for table in re.findall("<table.*?</table>", page, re.DOTALL):
        seen = re.sub('<span class="hidden">.*?</span>', "", table)
        heads = re.findall('<th scope="col".*?</th>', seen, re.DOTALL)
        assert len(heads) == len({re.sub("<.*?>", "", head) for head in heads})


def test_the_page_says_what_has_to_be_the_same_for_numbers_to_be_compared(page, table):
    assert (
        "comparable where this hash of protocol and data preparation, the images of the target domains and the source "
        f"models are the same: {table.protocol_hash}"
    ) in words(page)


def test_a_table_without_any_result_is_a_page_too(tmp_path):
    planned = fabricated_plan(tmp_path)
    page = html_page(build_table(planned))
    Outline(page)
    text = words(page)
    assert "0 of 8 cells are finished" in text
    assert "No cell is finished yet" in text
    assert "has no predictions of row 'no_adapt'" in text.replace("&#39;", "'")
    assert "<svg" not in page


def test_names_are_text_and_never_markup(table):
    evil = '<script>alert(1)</script> & "co" \''
    rows = tuple(replace(row, label=evil) if row.label == "grata" else row for row in table.rows)
    cells = tuple(replace(entry, row=evil) if entry.row == "grata" else entry for entry in table.plan.cells)
    page = html_page(replace(table, description=evil, rows=rows, plan=replace(table.plan, cells=cells)))
    Outline(page)
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
    assert "ab<" not in words(page)
    assert "B/&lt;model&gt;.ckpt" in page


def test_the_papers_numbers_stand_beside_the_measured_ones(page, table, drawn):
    row = replace(table.rows[3], paper={"A": 76.61, "average": 74.34}, minus_paper={"A": 1.25, "average": -0.5})
    text = words(html_page(replace(table, rows=(*table.rows[:3], row), drawings=drawn)))
    assert "paper 76.61 (+1.25)" in text
    assert "paper 74.34 (\N{MINUS SIGN}0.50)" in text
    assert "other images or other settings than the paper" in text
    assert "paper" not in words(page).replace("GraTa paper", "")


def test_the_best_of_a_column_is_bold_and_ties_all_are(table):
    best = best_rows(table)
    assert best == {"A": {"grata"}, "B": {"grata"}, "average": {"grata"}}
    rows = (*table.rows, replace(table.rows[3], label="again"))
    assert best_rows(replace(table, rows=rows))["B"] == {"grata", "again"}
    assert best_rows(replace(table, metric=METRICS.get("hd95")))["B"] == {"no_adapt"}


def test_the_protocol_is_told_in_words():
    protocol = {"name": "online", "reset": "target", "steps": 1, "predict": "after", "order": 0, "threshold": 0.5}
    data = {"name": "fundus", "image_size": 512, "limit": None, "classes": {"disc": [1, 2], "cup": [2]}}
    text = " ".join(protocol_sentences(protocol, data, dice_score))
    assert "fundus, 512 pixels square; classes: disc, cup." in text
    assert "1 update per image" in text
    assert "file order" in text
    varied = " ".join(
        protocol_sentences(protocol | {"order": (0, 1), "steps": 3, "reset": "never"}, data | {"limit": 9}, dice_score)
    )
    assert "Rows differ: Images come in file order. / Images come in random order 1." in varied
    assert "3 updates per image" in varied
    assert "first 9 of each domain" in varied
    assert "all target domains, in their order" in varied


def test_commands_can_be_pasted_into_a_shell(table):
    changed = replace(table.plan, overrides=("model.branches=[a,b]", "source=A"))
    run, report = commands(replace(table, plan=changed, reference="bn_only"))
    assert run == "python -m tta_bench experiment=first_look 'model.branches=[a,b]' source=A"
    assert report == "tta-bench report first_look 'model.branches=[a,b]' source=A --reference bn_only"


def test_numbers_are_set_with_true_minus_signs_and_unknown_ones_as_dashes():
    assert (number(-1234.567), number(None), number(float("nan"))) == ("\N{MINUS SIGN}1,234.57", DASH, DASH)
    assert [signed(1.005, 1), signed(-0.25)] == ["+1.0", "\N{MINUS SIGN}0.25"]
    assert [signed(each) for each in (-0.001, 0.0, 0.001)] == ["\N{MINUS SIGN}0.00", "0.00", "+0.00"]
    assert (p_value(0.0004), p_value(0.04), p_value(float("nan"))) == ("< 0.001", "0.040", DASH)


def test_a_figure_that_cannot_be_drawn_stops_no_report(tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("no such font")

    table = fabricated_table(tmp_path)
    monkeypatch.setattr("tta_bench.report.drawings.running_means", broken)
    monkeypatch.setattr("tta_bench.report.drawings.panels", broken)
    written = write_report(table, tmp_path / "report")
    assert {path.name for path in written} == {"table.md", "table.csv", "table.tex", "index.html", "targets.csv"}
    assert all(path.stat().st_size for path in written)
    assert caplog.text.count("ZeroDivisionError: no such font") == 2
    with pytest.raises(ZeroDivisionError):
        write_report(table, tmp_path / "report", table.sources[0])
