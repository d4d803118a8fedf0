"""``tta-bench predict``: a user's own unlabelled images, through real runs at 64 pixels, to masks on disk."""

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from predicted import CLASSES, N, finished, pixels, table

import tta_bench.records.snapshots as snapshots
from tta_bench.cell import Cell
from tta_bench.cli import main
from tta_bench.data.domain import class_channels
from tta_bench.data.synthetic.render import render
from tta_bench.methods.base import METHODS
from tta_bench.models.checkpoint import to_official
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.records.predictions import read_predictions
from tta_bench.runtime.names import unguarded
from tta_bench.serving.images import find_images

# What is deployed is what was benchmarked


def test_the_masks_are_the_predictions_of_the_cell_bit_for_bit(world, predict, tmp_path):
    cell = Cell.all_of(world["config"])[0]
    there = read_predictions(cell.folder().predictions, "A", [(2, 64, 64)] * N)
    assert predict(world["images"], "out", "--domain", "A") == (0, "")
    assert predict(world["images"], "apart", "--domain", "A", "--per-class", "--no-change") == (0, "")
    found = 0
    for k in range(N):
        for number, name in enumerate(CLASSES):
            mask = pixels(tmp_path / f"apart/masks/{name}/A{k}.png")
            assert set(np.unique(mask)) <= {0, 255}
            assert np.array_equal(mask == 255, there.mask(k)[number])
            found += (mask == 255).sum()
        told = class_channels(pixels(tmp_path / f"out/masks/A{k}.png"), CLASSES).numpy()
        disc, cup = there.mask(k)
        same = disc | ~cup  # a cup outside the disc has no value
        assert np.array_equal(told[:, same], there.mask(k)[:, same])
    assert found > 0
    scored = list(csv.DictReader((cell.folder().path / "per_image.csv").open(newline="")))
    for mine, theirs in zip(table(tmp_path / "out"), scored, strict=True):
        assert mine["image"] == f"{theirs['image']}.png"
        assert all(mine[name] == theirs[name] for name in ("cosine", "loss_auxiliary", "loss_pseudo", "lr"))
    # The draws depend on the domain's name, so this equality is not one of any two runs.
    assert predict(world["images"], "other", "--domain", "B") == (0, "")
    assert [row["lr"] for row in table(tmp_path / "other")] != [row["lr"] for row in scored]


def test_classes_that_exclude_each_other_are_those_of_the_cell(world, tmp_path):
    words = ("+method=tent", "data.classes={rim: [1], cup: [2]}", "data.exclusive=true", "training.epochs=4")
    words += ("training.min_steps=0",)
    words += ("preprocessing=percentile",)
    config, checkpoint = finished(world["data"].parent, tmp_path / "results", *words)
    there = read_predictions(Cell.all_of(config)[0].folder().predictions, "A", [(2, 64, 64)] * N)
    words = [f"checkpoint={checkpoint}", "+method=tent", "--domain", "A", "--probabilities"]
    main(["predict", str(world["images"]), str(tmp_path / "out"), *words])
    for k in range(N):
        rim, cup = there.mask(k)
        assert np.array_equal(pixels(tmp_path / f"out/masks/A{k}.png"), rim + 2 * cup)
        levels = [pixels(tmp_path / f"out/probabilities/{name}/A{k}.png") for name in ("rim", "cup")]
        assert np.array_equal(levels[0][rim] >= levels[1][rim], np.ones(rim.sum(), bool))
    assert there.bits.any()


def test_masks_beside_the_images_are_never_opened(world, predict, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(world["data"] / "A", copy / "A")
    for mask in (copy / "A/mask").iterdir():
        mask.write_bytes(b"no image")
    assert predict(copy, "out", method="no_adapt") == (0, "")
    assert [row["image"] for row in table(tmp_path / "out")] == [f"A/image/A{k}.png" for k in range(N)]


# What is written


def test_every_kind_of_file_and_size_gets_a_mask_of_its_own_size(predict, tmp_path):
    photos = tmp_path / "photos"
    (photos / "left").mkdir(parents=True)
    sizes = {"a.png": (90, 70), "a.jpg": (64, 64), "left/b.tif": (33, 120), "left/c.bmp": (130, 90)}
    for k, (name, size) in enumerate(sizes.items()):
        Image.fromarray(render("C", k, size=130)[0]).resize(size).convert("L" if k == 2 else "RGB").save(photos / name)
    (photos / "damaged.png").write_bytes((photos / "a.png").read_bytes()[:200])
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.png").write_text("no image")
    code, errors = predict(photos, "out", "--overlay", "--probabilities", "--compare", method="tent")
    assert code == 2
    assert errors.count("\n") == 1
    assert "skipped damaged.png" in errors
    out = tmp_path / "out"
    stems = {"a.png": "a.png", "a.jpg": "a.jpg", "left/b.tif": "left/b", "left/c.bmp": "left/c"}
    masks = {path.relative_to(out / "masks").as_posix() for path in (out / "masks").rglob("*.png")}
    assert masks == {f"{stem}.png" for stem in stems.values()}
    rows = {row["image"]: row for row in table(out)}
    assert list(rows) == ["a.jpg", "a.png", "damaged.png", "left/b.tif", "left/c.bmp"]
    for name, stem in stems.items():
        width, height = sizes[name]
        mask = pixels(out / f"masks/{stem}.png")
        assert mask.shape == (height, width)
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert pixels(out / f"overlays/{stem}.jpg").shape == (height, width, 3)
        row = rows[name]
        assert (int(row["width"]), int(row["height"]), row["method"], row["skipped"]) == (width, height, "tent", "")
        before = pixels(out / f"unadapted/{stem}.png")
        for label, values in CLASSES.items():
            now, then = np.isin(mask, values), np.isin(before, values)
            assert float(row[f"area_{label}"]) == pytest.approx(now.mean())
            assert float(row[f"unadapted_area_{label}"]) == pytest.approx(then.mean())
            dice = 100 * (2 * (now & then).sum() + 1e-6) / (now.sum() + then.sum() + 1e-6)
            assert float(row[f"unadapted_dice_{label}"]) == pytest.approx(dice)
        disc, cup = (pixels(out / f"probabilities/{label}/{stem}.png") for label in CLASSES)
        assert disc.dtype == np.uint16
        told = (disc > 32800) | (cup < 32700)  # a cup outside the disc has no value
        for label, level in (("disc", disc), ("cup", cup)):
            now = np.isin(mask, CLASSES[label])
            assert now[told & (level > 32800)].all()
            assert not now[told & (level < 32700)].any()
        assert 0 <= float(row["entropy"]) <= np.log(2)
        assert float(row["loss_entropy"]) > 0
        assert row["update_skipped"] == "0.0"
    assert rows["damaged.png"]["skipped"]
    assert rows["damaged.png"]["area_disc"] == ""
    compared = [float(row["unadapted_dice"]) for row in table(out, "comparison.csv")]
    assert compared == sorted(compared)
    assert len(compared) == 4
    assert "Changed most" in predict.out


def test_the_official_checkpoint_needs_no_more_words(predict, world, tmp_path):
    torch.manual_seed(0)
    model = ResUNet(2, branches=("reconstruction", "denoising", "super_resolution", "rotation"))
    state = {to_official(key): value for key, value in model.state_dict().items()}
    state |= {"res.fc.weight": torch.zeros(1000, 512), "res.fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "last-Res_Unet.pth")
    words = ["checkpoint=last-Res_Unet.pth", "data.image_size=64", "+method=no_adapt"]
    main(["predict", str(world["images"] / "A0.png"), str(tmp_path / "out"), *words])
    config = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert (config["model"]["name"], config["image_size"]) == ("resunet34", 64)
    assert pixels(tmp_path / "out/masks/A0.png").shape == (64, 64)


def test_results_within_the_folder_of_the_images_are_not_taken_for_images(world, predict, tmp_path):
    shutil.copytree(world["images"], tmp_path / "photos")
    for place, out in (("photos", "a"), ("photos", "a"), ("photos", "b"), ("photos/**/*.png", "c")):
        assert predict(place, f"photos/{out}", method="no_adapt") == (0, "")
        assert [row["image"] for row in table(tmp_path / f"photos/{out}")] == [f"A{k}.png" for k in range(N)]
    assert len(find_images(str(tmp_path / "photos/a/masks"))) == N, "asked for by name, they are"
    assert "where results go" in predict("photos/a", "photos/a", method="no_adapt")[1]


def test_what_is_wrong_with_an_image_speaks_of_no_mask_that_it_has_not(predict, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "dark.png")
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(render("C", 0, size=64)[0]).save(tmp_path / "turned.jpg", exif=turned)
    for name in ("dark.png", "turned.jpg"):
        code, errors = predict(name, f"out_{name}", method="no_adapt")
        assert code == 2
        assert not re.search("pair|partner|remove it and its mask|save both", errors)


def test_a_method_that_looks_ahead_sees_the_images_that_can_be_read(world, predict, monkeypatch, tmp_path):
    shutil.copytree(world["images"], tmp_path / "photos")
    (tmp_path / "photos/A1.png").write_bytes(b"damaged")
    seen = []

    def look(self, streams):
        seen.extend([tuple(image.shape) for image in (stream[k] for k in range(len(stream)))] for stream in streams)

    monkeypatch.setattr(METHODS.get("bn_only"), "before_stream", look)
    code, errors = predict("photos", "out", method="bn_only")
    assert (code, "skipped A1.png" in errors) == (2, True)
    assert seen == [[(3, 64, 64)] * (N - 1)]
    assert [bool(row["skipped"]) for row in table(tmp_path / "out")] == [k == 1 for k in range(N)]


def test_names_in_the_table_are_no_formulas(world, predict, tmp_path):
    (tmp_path / "odd").mkdir()
    shutil.copy(world["images"] / "A0.png", tmp_path / "odd/=1+1.png")
    assert predict("odd", "out", method="no_adapt") == (0, "")
    (row,) = table(tmp_path / "out")
    assert row["image"].startswith("'=")
    assert unguarded(row["image"]) == "=1+1.png"
    assert "unadapted_dice" not in row, "there is nothing to compare with"
    assert snapshots.SNAPSHOT_SECONDS > 0


# Refusals, all at once


def test_all_faults_of_a_command_line_come_at_once(predict, tmp_path):
    words = (
        "data.image_size=128",
        "training.epochs=2",
        "runtime.graphs=false",
        "seed=1,2",
        "--stream-by",
        "eye",
        "--compare",
        "--no-change",
    )
    code, errors = predict("nowhere", "out", *words, method="grta")
    assert code == 2
    assert "Traceback" not in errors
    for part in ("grta: did you mean 'grata'?", "'data.image_size' comes from", "'training.epochs' is for runs"):
        assert part in errors
    assert "'runtime" not in errors, "predictions are made by recorded passes, too"
    assert "--stream-by eye is a column of a CSV list" in errors
    assert "--compare needs what --no-change leaves out" in errors
    for key in ("evaluation=held_out", "empty=skip", "score_at=stored"):
        assert f"protocol.{key.partition('=')[0]} is for scores" in predict("nowhere", "out", f"protocol.{key}")[1]
    errors = predict("nowhere", "out", method="tent,grata")[1]
    assert "several values where one is expected" in errors
    assert "-m" not in errors, "there are no sweeps"
    assert "method.momentum=0.9 has no effect" in predict("nowhere", "out", "method.momentum=0.9", method="tent")[1]
    (tmp_path / "kept").mkdir()
    assert "--state kept is a folder: name a file" in predict("nowhere", "out", "--state", "kept")[1]
    assert not (tmp_path / "out").exists()


def test_without_a_checkpoint_or_images_the_remedy_is_named(world, predict, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["predict", str(world["images"]), "out", "+method=tent"])
    assert "no checkpoint is given: add checkpoint=FILE" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert "empty holds no image" in predict("empty", "out")[1]
    assert "no file is called *.png" in predict("*.png", "out")[1]
    (tmp_path / "list.csv").write_text("image,eye\ngone.png,L\n,R\n")
    errors = predict("list.csv", "out", "--stream-by", "eye")[1]
    assert "line 2: gone.png does not exist" in errors
    assert "line 3: column 'image' is empty" in errors
    assert "where results go" in predict(world["images"], world["images"].parent)[1]
    words = ("--state", "s", "protocol.reset=image")
    assert "--state keeps what protocol.reset=image throws away" in predict(world["images"], "out", *words)[1]
    (tmp_path / "order").write_text("A0.png\nA0.png\nB.png\n")
    errors = predict(world["images"], "out", "--order", "order")[1]
    assert "B.png is no image here" in errors
    assert "A0.png stands 2 times" in errors
    assert "lacks A5.png" in errors


def test_the_page_of_the_docs_works_as_printed(world, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/predict.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})
    line = re.search(r"^tta-bench (predict photographs .*)$", page, re.MULTILINE)[1]
    main(shlex.split(line.replace("MODEL", str(world["checkpoint"]))))
    listing = re.search(r"```\nmasks/\n(.*?)```", page, re.DOTALL)[1]
    for name in re.findall(r"^  (\S+)", listing, re.MULTILINE):
        assert (tmp_path / "masks" / name).is_file()
    assert pixels(tmp_path / "masks/masks/11.png").shape == (300, 300)


# Memory


MEMORY = """
import sys
from pathlib import Path
from tta_bench.serving.files import ImageWriter
write, peaks = ImageWriter.write, []
def spy(self, image, prediction):
    text = Path("/proc/self/status").read_text()
    peaks.append(int(text.split("VmHWM:")[1].split()[0]) / 1024)
    return write(self, image, prediction)
ImageWriter.write = spy
sys.argv[1:] = {words!r}
from tta_bench.cli import main
main()
print("grown", peaks[-1] - peaks[40])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_images(world, tmp_path):
    (tmp_path / "many").mkdir()
    image = Image.fromarray(render("A", 0, size=512)[0])
    for k in range(70):
        image.save(tmp_path / f"many/{k}.png", compress_level=1)
    words = ["predict", "many", "out", f"checkpoint={world['checkpoint']}", "+method=bn_only"]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(words=words)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # 30 further images are 22 MiB as pixels.
    assert float(done.stdout.split("grown")[1]) < 10
