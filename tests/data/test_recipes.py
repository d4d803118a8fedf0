"""Recipes: small trees with the names and codings of the real releases, prepared and read back."""

import csv
import hashlib
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from releases import (
    SIZE,
    TREES,
    acdc,
    circle,
    drishti_gs,
    files_below,
    mnms,
    papila,
    picture,
    recipe_for,
    refuge,
    rim_one_r3,
)

from sections import data_config
from tta_bench.cli import main
from tta_bench.data.prepare import prepare
from tta_bench.data.readers.base import available_domains
from tta_bench.data.recipes import writing
from tta_bench.data.recipes.making import cut, roi
from tta_bench.data.recipes.pairing import fitting, pair
from tta_bench.data.recipes.patterns import Files
from tta_bench.data.recipes.prepare import prepare_release
from tta_bench.data.recipes.recipe import Crop, load_recipe, recipe_names
from tta_bench.errors import UserError

nibabel = pytest.importorskip("nibabel", reason="needs the extra 'medical'")


@pytest.fixture(params=TREES, ids=lambda tree: tree.__name__)
def release(request, tmp_path):
    """Recipe, folder of a made release, and the names that become of it."""
    return request.param.__name__, tmp_path / "raw", request.param(tmp_path / "raw")


def test_every_recipe_has_a_tree_here():
    assert recipe_names() == sorted(tree.__name__ for tree in TREES)


def test_a_release_becomes_a_data_set(release, tmp_path, caplog):
    name, raw, expected = release
    before = files_below(raw)
    recipe = recipe_for(name)
    out = tmp_path / "out"
    written = prepare_release(recipe, raw, out)
    assert files_below(raw) == before, "nothing in the release is changed"
    assert written.images == {domain: len(names) for domain, names in expected.items()}
    for domain, number in recipe.expected.items():  # the small trees never have the paper's counts
        found = "images or volumes, " + f"{number} are expected"
        assert (found in caplog.text) or domain not in expected
    # It is read by data=folder, and where that is promised by data=fundus, with equal numbers.
    domains = {}
    for reader in ("folder", "fundus") if recipe.fundus else ("folder",):
        domains_of = {domain: domain for domain in expected} if reader == "fundus" else None
        config = data_config(name=reader, root=out, classes=written.classes, domains=domains_of)
        assert set(available_domains(config)) == set(expected)
        domains[reader] = prepare(config, list(expected), tmp_path / "cache")
    for domain, names in expected.items():
        assert set(domains["folder"][domain].image_names) == set(names)
        for index in range(len(names)):
            labels = domains["folder"][domain].label(index)
            assert all(label.any() for label in labels), "every class is somewhere"
            if recipe.fundus:
                assert not (labels[1] & ~labels[0]).any()
        # The manifest names every file with its checksum, and where it comes from.
        with (out / domain / "manifest.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows] == names
        listed = [row[kind] for row in rows for kind in ("image", "mask", "grey") if row[kind]]
        kept = {path.relative_to(out / domain).as_posix() for path in (out / domain).rglob("*") if path.is_file()}
        assert kept == {*listed, "manifest.csv", "recipe.yaml", "made.jsonl"}
        for row, kind in itertools.product(rows, ("image", "mask", "grey")):
            if row[kind]:
                assert hashlib.sha256((out / domain / row[kind]).read_bytes()).hexdigest() == row[f"{kind}_sha256"]
        for row in rows:
            for source, checksum in zip(row["sources"].split(";"), row["sources_sha256"].split(";"), strict=True):
                assert hashlib.sha256((raw / source).read_bytes()).hexdigest() == checksum
        if recipe.fundus:
            assert [Path(each).stem for each in domains["fundus"][domain].image_names] == names
            np.testing.assert_array_equal(
                np.sort(domains["fundus"][domain].masks, 0), np.sort(domains["folder"][domain].masks, 0)
            )
        if recipe.crop:
            with Image.open(out / domain / rows[0]["image"]) as image:
                assert image.size == (64, 64)


def test_again_changes_nothing_and_foreign_files_stay(release, tmp_path):
    name, raw, expected = release
    out = tmp_path / "out"
    prepare_release(recipe_for(name), raw, out)
    before = files_below(out)
    prepare_release(recipe_for(name), raw, out)
    assert files_below(out) == before
    domain = next(iter(expected))
    # by another recipe
    other = load_recipe(name, [*(["crop.pixels=64"] if load_recipe(name).crop else []), "title=another"])
    with pytest.raises(UserError, match=r"prepared by another recipe \(title differ\)"):
        prepare_release(other, raw, out)
    # over somebody's folder, or a file changed since
    image = next((out / domain / "image").iterdir())
    image.write_bytes(b"changed")
    with pytest.raises(UserError, match=f"{image.name} is missing or was changed"):
        prepare_release(recipe_for(name), raw, out)
    shutil.rmtree(out / domain)
    (out / domain).mkdir()
    (out / domain / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and was not made by this command"):
        prepare_release(recipe_for(name), raw, out)
    assert (out / domain / "mine.txt").read_text() == "mine"


def test_an_interrupted_preparation_leaves_no_domain_and_is_continued(release, tmp_path, monkeypatch):
    name, raw, _ = release
    out, plain = tmp_path / "out", tmp_path / "plain"
    prepare_release(recipe_for(name), raw, plain)
    made = []

    def once(recipe, classes, root, item, make=writing.make):
        made.append(item.image)
        return make(recipe, classes, root, item)

    monkeypatch.setattr(writing, "make", once)
    steps = itertools.count()

    def stop():
        if next(steps) == 1:
            raise KeyboardInterrupt

    recipe = recipe_for(name)
    domain, items = next(iter(pair(recipe, Files(raw)).domains.items()))
    classes = prepare_release(recipe, raw, tmp_path / "third").classes
    made.clear()
    monkeypatch.setattr(writing, "_AHEAD", 1)
    target = writing.Target(out, domain, recipe, classes, raw)
    if len(items) > 1:
        with pytest.raises(KeyboardInterrupt):
            writing.write_domain(target, items, stop)
        assert not (out / domain).exists()
        part = out / f".{domain}.part"
        with (part / "made.jsonl").open("a") as file:
            file.write('{"item": "half a li')
        monkeypatch.setattr(writing, "_AHEAD", 16)
    prepare_release(recipe, raw, out)
    total = sum(map(len, pair(recipe, Files(raw)).domains.values()))
    assert len(made) <= total + 1, "what was finished is not made again"
    assert not list(out.glob(".*.part"))
    same = {p.relative_to(out): c for p, (_, c) in files_below(out).items() if not p.name.startswith(".")}
    assert same == {p.relative_to(plain): c for p, (_, c) in files_below(plain).items() if not p.name.startswith(".")}


def test_damaged_and_missing_files_are_named(release, tmp_path):
    name, raw, _ = release
    recipe = recipe_for(name)
    items = [item for items in pair(recipe, Files(raw)).domains.values() for item in items]
    damaged, bare = raw / items[0].image, raw / items[-1].masks[0][0]
    damaged.write_bytes(damaged.read_bytes()[:80])
    with pytest.raises(UserError) as caught:
        prepare_release(recipe, raw, tmp_path / "out")
    assert any(str(damaged) in fault for fault in caught.value.faults)
    assert not [
        path for path in (tmp_path / "out").iterdir() if path.name == next(iter(pair(recipe, Files(raw)).domains))
    ]
    bare.unlink()
    if len(items) > 1:
        with pytest.raises(UserError) as caught:
            prepare_release(recipe, raw, tmp_path / "out")
        wanted = "has no mask" if name != "papila" else "2 are expected"
        assert any(wanted in fault and items[-1].name in fault for fault in caught.value.faults)


def test_the_recipe_that_fits_is_told(release, tmp_path, capsys):
    name, raw, _ = release
    assert fitting(Files(raw))[0][0] == name
    main(["data", "check", str(raw)])
    assert f"data prepare {name} {raw} OUT" in capsys.readouterr().out
    main(["data", "check", name, str(raw)])
    assert f"{name} fits {raw}" in capsys.readouterr().out
    if name != "papila":
        with pytest.raises(SystemExit):
            main(["data", "check", "papila", str(raw)])
        assert f"data prepare {name} {raw}" in capsys.readouterr().err


def test_a_folder_that_is_no_data_set_is_told_its_recipe(tmp_path, capsys):
    refuge(tmp_path / "raw")
    with pytest.raises(SystemExit):
        main(["data", "check", "data=folder", f"data.root={tmp_path / 'raw'}"])
    error = capsys.readouterr().err
    assert "holds no domain" in error
    assert (
        f"{tmp_path / 'raw'} looks like refuge (REFUGE 2, REFUGE_Valid 2): run tta-bench data prepare refuge" in error
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["data", "check", str(tmp_path / "empty")])
    assert "no recipe fits" in capsys.readouterr().err


def areas(out, domain):
    """Pixels of disc and cup of the first image."""
    mask = np.asarray(Image.open(sorted((out / domain / "mask").iterdir())[0]))
    return int((mask > 0).sum()), int((mask == 2).sum())


@pytest.mark.parametrize(
    ("tree", "changes"),
    [
        (drishti_gs, [f"masks.threshold={threshold}" for threshold in (0.25, 0.5, 0.75, 1)]),
        (papila, ["masks.threshold=0.5", "annotator=expert2", "masks.threshold=1"]),
        (rim_one_r3, ["annotator=expert1", "annotator=expert2"]),
    ],
)
def test_who_counts_is_a_choice(tree, changes, tmp_path):
    expected = tree(tmp_path / "raw")
    found = []
    for number, change in enumerate(changes):
        recipe = load_recipe(tree.__name__, ["crop.pixels=64", change])
        prepare_release(recipe, tmp_path / "raw", tmp_path / str(number))
        found.append(areas(tmp_path / str(number), *expected))
    if tree is drishti_gs:
        radii = [(20 - k, 8 - k) for k in (0, 2, 4, 6)]
        assert found == [tuple(int(circle(radius).sum()) for radius in each) for each in radii]
    elif tree is papila:
        assert found[0] > found[1] == found[2], "either; the second, who drew less; both"
    else:
        assert found[0] == found[1]


def test_a_region_keeps_its_disc_and_makes_up_no_border():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = rng.integers(40, 200, 2)
        mask = np.zeros(size, np.uint8)
        low, high = (np.sort(rng.integers(0, n, 2)) for n in size)
        mask[low[0] : low[1] + 1, high[0] : high[1] + 1] = 1
        side = int(rng.integers(16, 220))
        left, top, side = box = roi(mask, (1,), Crop(around="c", pixels=side))
        piece = cut(mask, box)
        assert piece.shape == (side, side)
        inside = cut(np.ones_like(mask), box)
        for start, n, ends in ((left, size[1], high), (top, size[0], low)):
            assert (0 <= start <= n - side) if side <= n else start == (n - side) // 2
            if ends[1] - ends[0] < side:
                assert start <= ends[0]
                assert ends[1] < start + side, "a disc that fits is kept whole"
        assert inside.sum() == min(side, size[0]) * min(side, size[1])
    assert roi(mask * 0, (1,), Crop(around="c", pixels=16)) is None
    assert roi(circle(20), (1,), Crop(around="c", factor=2))[2] == 82


def test_a_slice_is_upright(tmp_path):
    """Whatever the orientation of the file: front above, the patient's right on the left."""
    codes = np.zeros((64, 70, 3), np.uint8)  # RAS: x to the right, y to the front
    codes[50:60, 5:15] = 1  # on the right, at the back
    image = np.random.default_rng(0).normal(0, 1, codes.shape).astype(np.float32)
    for orientation in ("RAS", "LPS", "SAR"):
        codes_to = nibabel.orientations.axcodes2ornt(tuple(orientation))
        for kind, array in (("imagesTr", image), ("labelsTr", codes)):
            path = tmp_path / orientation / "Task99_Test" / kind / "case.nii.gz"
            path.parent.mkdir(parents=True)
            nifti = nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1]))
            turn = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt(tuple("RAS")), codes_to)
            nibabel.save(nifti.as_reoriented(turn), path)
        (tmp_path / orientation / "Task99_Test/dataset.json").write_text('{"labels": {"background": 0, "Spot on": 1}}')
        out = tmp_path / f"out{orientation}"
        assert prepare_release(load_recipe("msd"), tmp_path / orientation, out).classes == {"spot_on": (1,)}
        mask = np.asarray(Image.open(out / "Task99_Test/mask/case_000.png"))
        assert mask.shape == (70, 64)
        assert mask[-15:-5, 4:14].all()
        assert mask.sum() == 100
        with (out / "Task99_Test/manifest.csv").open() as file:
            row = next(csv.DictReader(file))
        assert (row["case"], row["slice"], row["spacing"]) == ("case", "0", "2 x 1 x 3")
        same = np.asarray(Image.open(tmp_path / "outRAS/Task99_Test/image/case_002.png"))
        np.testing.assert_array_equal(np.asarray(Image.open(out / "Task99_Test/image/case_002.png")), same)


def test_both_hearts_are_one_data_set(tmp_path):
    """M&Ms and ACDC number the ventricles the other way round; what is prepared does not."""
    for tree in (mnms, acdc):
        tree(tmp_path / tree.__name__)
        prepare_release(load_recipe(tree.__name__), tmp_path / tree.__name__, tmp_path / "out")
    outer = {
        domain: np.asarray(Image.open(sorted((tmp_path / "out" / domain / "mask").iterdir())[0]))
        for domain in ("A", "B", "ACDC")
    }
    # The made scans have the right ventricle outside: 3 in M&Ms, 1 in ACDC.
    for mask in outer.values():
        np.testing.assert_array_equal(mask, outer["A"])
    assert list(np.unique(outer["A"])) == [0, 1, 2, 3]


def test_cups_outside_their_discs_are_counted(tmp_path, caplog):
    refuge(tmp_path / "other")
    rim_one_r3(tmp_path / "raw")
    cup = np.hstack([circle(8, centre=(40, 92)), np.zeros(SIZE)]) * 255
    picture(tmp_path / "raw/RIM-ONE r3/Healthy/Average_masks/N-1-L-Cup-Avg.png", cup)
    prepare_release(recipe_for("rim_one_r3"), tmp_path / "raw", tmp_path / "out")
    assert "1 images have pixels of the cup outside the disc" in caplog.text
    assert "N-1-L" in caplog.text
