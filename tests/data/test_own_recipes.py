"""A recipe of one's own, and commands that cannot be."""

import subprocess
import sys

import pytest
from releases import circle, photograph, picture, refuge

from tta_bench.cli import main

OWN = """
title: My clinic
get: the archive
licence: ours
coding: red is 1
classes: {lesion: [1]}
parts:
  - {domain: "{site}", images: "{site}/img_{name}.png", name: "{site}-{name}"}
masks:
  files: "{site}/seg_{name}.png"
  codes: {0: 0, 1: 128..255}
"""


def own(tmp_path, text=OWN):
    (tmp_path / "mine.yaml").write_text(text)
    for site in ("north", "south"):
        photograph(tmp_path / f"raw/{site}/img_1.png")
        picture(tmp_path / f"raw/{site}/seg_1.png", circle(20) * 200)
    return str(tmp_path / "mine.yaml")


def test_a_recipe_of_ones_own(tmp_path, capsys):
    path = own(tmp_path)
    main(["data", "prepare", path, str(tmp_path / "raw"), str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "north: 1 images" in text
    command = text.splitlines()[-1].removeprefix("next: tta-bench ").replace("'", "").split()
    main([*command, "data.image_size=64", f"results_root={tmp_path / 'results'}"])
    assert "lesion" in capsys.readouterr().out
    assert (tmp_path / "out/south/mask/south-1.png").is_file()


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("128..255", "1", "seg_1.png has codes without a meaning: 200; the recipe knows 0, 1"),
        ("licence: ours\n", "", "'licence' is missing"),
        ("img_{name}", "img_*", "has no {name}"),
        ("img_{name}", "img_{name:[a-}", "has no valid regular expression in a field: bad character range"),
        ("coding:", "codding:", "unknown key 'codding': did you mean 'coding'"),
        ("  codes: {0: 0, 1: 128..255}", "  layers: [{value: 1, files: x}]", "masks need either files"),
        ("classes: {lesion: [1]}", "", "a recipe needs classes"),
        ("{lesion: [1]}", "{lesion: [1]}\ncrop: {around: leson, pixels: 64}", "did you mean 'lesion'"),
        ("codes:", "code:", "mine.yaml: unknown key 'masks.code': did you mean 'masks.codes'?"),
        ("images:", "imges:", "mine.yaml: unknown key 'parts[0].imges': did you mean 'parts[0].images'?"),
        (
            "{lesion: [1]}",
            "{lesion: [1]}\ncrop: {arround: lesion, pixels: 64}",
            "unknown key 'crop.arround': did you mean 'crop.around'?",
        ),
        ("title: ", "title: [", "mine.yaml, line 3, column 4 is no YAML"),
        ("\n  files", "\n\tfiles", "mine.yaml, line 10, column 1 is no YAML"),
        ("\n  files", "\n\tfiles", "a tab indents this line or the one before, write spaces"),
        ("licence", "title: twice\nlicence", "mine.yaml, line 4, column 1 is no YAML: 'title' stands twice"),
        ("ours", "o\x07urs", "mine.yaml, line 4, column 11 is no YAML"),
        ('name: "{site}-{name}"', 'name: "{site}"', None),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told(tmp_path, before, after, sentence, capsys):
    assert before in OWN
    path = own(tmp_path, OWN.replace(before, after))
    words = ["data", "prepare", path, str(tmp_path / "raw"), str(tmp_path / "out")]
    if sentence is None:
        main(words)
        return
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["drishti", "raw", "out"], "unknown recipe 'drishti': did you mean 'drishti_gs'"),
        (["refuge", "nowhere", "out"], "nowhere does not exist"),
        (["refuge", "raw"], "data prepare refuge RAW OUT"),
        (["refuge", "raw", "raw/out"], "lies in the release"),
        (["refuge", "raw", "out", "crop.pixles=4"], "unknown key 'crop.pixles'"),
        (["refuge", "raw", "out", "crop.factor=2"], "crop needs either pixels or factor"),
        (["refuge", "raw", "out", "annotator=me"], "annotator=me"),
        (["data=folder", "data.root=raw"], "tta-bench data cache data=folder"),
    ],
)
def test_a_command_that_cannot_be_is_refused(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    refuge(tmp_path / "raw")
    with pytest.raises(SystemExit) as left:
        main(["data", "prepare", *words])
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_recipes_import_no_torch():
    code = "import sys, tta_bench.data.recipes.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
