"""Qualitative panels: which images are shown, and that what is drawn is what was predicted."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from fabricated import IMAGES, fabricated_plan, fabricated_table, finish
from PIL import Image

from tta_bench.errors import UserError
from tta_bench.ops.painting import COLOURS
from tta_bench.report.formats.html import write as page
from tta_bench.report.model import Drawings
from tta_bench.report.panels import Choice, Panel, bounding_box, choose, class_colours, draw, panels
from tta_bench.report.tables import build_table

GREEN, BLUE = COLOURS[:2]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return fabricated_table(tmp_path_factory.mktemp("results"), leave_out=[("grata", "A")])


def square(top, left, side, size=168):
    mask = np.zeros((1, size, size), bool)
    mask[0, top : top + side, left : left + side] = True
    return mask


def panel(truth, prediction, grey=128):
    size = truth.shape[-1]
    image = np.full((size, size, 3), grey, np.uint8)
    return Panel("C: c-1", image, truth, {"row": prediction}, {"row": 12.34})


def close(picture, colour, tolerance=40):
    return (np.abs(picture.astype(int) - colour) < tolerance).all(axis=-1)


def test_the_choice_is_easy_median_and_hard_from_different_targets():
    dice = {"A": [10.0, 50.0, 90.0], "B": [11.0, 51.0, 89.0], "C": [12.0, 49.0, 88.0]}
    chosen = choose(dice)
    assert [choice.note for choice in chosen] == ["easy", "median", "hard"]
    assert len({choice.target for choice in chosen}) == 3
    values = [dice[choice.target][choice.index] for choice in chosen]
    assert values[0] > 85
    assert 45 < values[1] < 55
    assert values[2] < 15


def test_of_a_single_target_three_different_images_are_chosen_and_ties_go_to_the_first():
    assert [choice.index for choice in choose({"A": [50.0] * 5})] == [0, 1, 2]
    assert choose({"A": [70.0]}) == [Choice("A", 0, "easy")]


def test_the_choice_depends_on_the_reference_row_alone(table, tmp_path):
    titles = panels(table, "B").alt
    other = fabricated_plan(tmp_path)
    for entry in other.cells:
        finish(entry, shift=None if entry.row == "no_adapt" else 9)
    again = panels(build_table(other), "B").alt
    assert [part.split(": no_adapt")[0] for part in titles.split(";")] == [
        part.split(": no_adapt")[0] for part in again.split(";")
    ]
    assert titles != again, "the other rows' Dice differ"


def test_the_caption_says_how_the_images_were_chosen_and_what_is_absent(table):
    shown = panels(table, "A")
    assert "reference row 'no_adapt' alone" in shown.caption
    assert shown.caption.endswith("Without predictions yet: grata.")
    assert "grata" not in shown.alt
    assert all(word in shown.alt for word in ("(easy)", "(median)", "(hard)", "tent"))


def test_the_default_source_is_the_one_with_most_rows(table):
    assert panels(table).caption.startswith("Source B.")


def test_all_rows_of_a_picture_start_from_the_same_source_model(tmp_path):
    planned = fabricated_plan(tmp_path, "source=B", "training.seed=0,1")
    gone = {("no_adapt", 1), ("tent", 0), ("grata", 0)}

    def finished(*left_out):
        for entry in planned.cells:
            if (entry.row, entry.cell.config.training.seed) not in left_out:
                finish(entry, shift=2 + 8 * entry.cell.config.training.seed)
        return panels(build_table(planned))

    shown = finished(*gone)
    assert shown.caption.startswith("Source B, training seed 0, order 0. ")
    assert shown.caption.endswith("Without predictions yet: tent, grata."), "most rows are of seed 1, without reference"
    assert "bn_only" in shown.alt
    assert "grata" not in shown.alt
    shown = finished(*gone - {("no_adapt", 1)})
    assert shown.caption.startswith("Source B, training seed 1, order 0. "), "most rows"
    assert "Without predictions" not in shown.caption
    assert finished().caption.startswith("Source B, training seed 0, order 0. "), "the first"


def test_images_can_be_named_and_the_dice_told_are_those_of_the_files(table):
    name = f"C-{IMAGES - 1:04d}"
    shown = panels(table, "B", [("C", name)])
    assert "Images chosen by name." in shown.caption
    cell = next(entry.cell for entry in table.plan.cells if (entry.row, entry.cell.config.source) == ("tent", "B"))
    value = next(float(row["dice"]) for row in cell.folder().finished()[1] if row["image"] == name)
    assert f"C: {name}: no_adapt" in shown.alt
    assert f"tent {value:.1f}" in shown.alt


def test_unknown_names_are_refused_all_at_once_with_a_hint(table):
    with pytest.raises(UserError) as caught:
        panels(table, "B", [("E", "E-0000"), ("C", "C-000")])
    assert len(caught.value.faults) == 2
    assert "did you mean 'C-000" in caught.value.faults[1]
    with pytest.raises(UserError, match="source=Z is not in table first_look"):
        panels(table, "Z")
    with pytest.raises(UserError, match="images is empty"):
        panels(table, "B", [])


def test_without_the_reference_row_nothing_is_chosen(tmp_path):
    table = fabricated_table(tmp_path, leave_out=[("no_adapt", "A"), ("no_adapt", "B")])
    with pytest.raises(UserError, match="no predictions of row 'no_adapt' with source=A"):
        panels(table, "A")


def test_predictions_of_other_images_are_refused(tmp_path):
    table = fabricated_table(tmp_path)
    first, *others = table.finished
    cell, fingerprints = first.cell, {**first.summary["data"], "C": "0" * 32}
    first = first._replace(summary={**first.summary, "data": fingerprints})
    table = replace(table, finished=(first, *others))
    with pytest.raises(UserError, match=r"row 'no_adapt': the images of C have changed .* force=true"):
        panels(table, cell.config.source, [("C", "C-0000")])


def test_a_class_is_filled_and_outlined_where_it_was_predicted_and_the_box_is_the_truths():
    truth, prediction = square(20, 20, 40), square(90, 90, 50)
    picture = draw([panel(truth, prediction)], ["disc"])
    tile = picture[-172:-4, -172:-4]
    green = close(tile, GREEN)
    assert green[90:140, 90].mean() > 0.9, "contour"
    assert green[20, 20:60].mean() > 0.9, "upper edge of the ground truth's box"
    assert green[20:60, 20].mean() > 0.9, "its left edge"
    assert not green[30:50, 30:50].any(), "the box is empty"
    inside, outside = tile[115, 115].astype(int), tile[75, 75].astype(int)
    assert inside[1] - inside[0] > 15 > abs(outside[1] - outside[0]), "translucent green inside alone"


def test_the_plain_image_and_the_ground_truth_come_first():
    truth = square(20, 20, 40)
    picture = draw([panel(truth, np.zeros_like(truth))], ["disc"])
    image, annotated, predicted = (picture[-172:-4, -172 * column : -172 * column + 168] for column in (3, 2, 1))
    assert (image == 128).all()
    assert close(annotated, GREEN)[22:58, 20].mean() > 0.9
    assert close(predicted, (0, 0, 0))[150:, 130:].any(), "the Dice is written into the corner"
    assert not close(annotated, (0, 0, 0)).any()


def test_masks_smaller_than_the_tile_lie_where_they_belong():
    truth = square(16, 8, 32, size=64)
    picture = draw([panel(truth, truth)], ["disc"])
    ys, xs = np.nonzero(close(picture[-172:-4, -172:-4], GREEN, 60))
    scale = 168 / 64
    assert np.allclose([ys.min(), ys.max(), xs.min(), xs.max()], np.array([16, 48, 8, 40]) * scale, atol=3)


def test_an_oblong_image_is_not_squeezed():
    truth = np.zeros((1, 60, 120), bool)
    truth[0, 20:40, 50:70] = True
    oblong = panel(truth, truth)._replace(image=np.full((60, 120, 3), 128, np.uint8))
    tile = draw([oblong], ["disc"])[-172:-4, -172:-4]
    ys, xs = np.nonzero(close(tile, GREEN, 60))
    assert abs((ys.max() - ys.min()) - (xs.max() - xs.min())) <= 2
    assert not close(tile[:40], (128, 128, 128)).any(), "above it is the page"


def test_disc_is_green_and_cup_blue_and_other_classes_have_colours_of_their_own():
    assert class_colours(["disc", "cup"]) == class_colours(["cup", "disc"])[::-1] == [GREEN, BLUE]
    assert class_colours(["nucleus"]) == [GREEN]
    colours = class_colours(["liver", "cup", "spleen"])
    assert colours[1] == BLUE
    assert len(set(colours)) == 3
    assert len(class_colours([f"class {number}" for number in range(50)])) == 50


def test_a_bounding_box_is_tight_and_that_of_nothing_is_none():
    assert bounding_box(square(3, 5, 2)[0]) == (5, 3, 6, 4)
    assert bounding_box(np.zeros((4, 4), bool)) is None


def test_long_labels_are_wrapped_and_never_widen_the_figure():
    truth = square(20, 20, 40)
    plain = draw([panel(truth, truth)], ["disc"])
    label = "consistency aligned with entropy and_a_word_without_any_end_whatsoever_in_it"
    long = panel(truth, truth)._replace(predictions={label: truth}, values={label: 50.0})
    drawn = draw([long], ["disc"])
    assert drawn.shape[1] == plain.shape[1]
    assert drawn.shape[0] > plain.shape[0]


def test_the_picture_travels_in_the_page(table):
    shown = panels(table, "B")
    content = shown.webp()
    assert f"data:image/webp;base64,{base64.b64encode(content).decode()}" in page(
        replace(table, drawings=Drawings([], shown, ""))
    )
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == shown.picture.shape[1::-1]
