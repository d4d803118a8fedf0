"""Recipes: small trees with the names and codings of the real releases, prepared and read back."""

import csv
import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

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

SIZE = (96, 120)
"""Height and width of the made photographs."""

CENTRE = (40, 70)
"""Row and column of the middle of the made discs."""


def photograph(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=95)


def circle(radius, size=SIZE, centre=CENTRE):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def numbers():
    """Background 0, rim 1, cup 2."""
    return circle(20).astype(int) + circle(8)


def drishti_gs(root):
    top = root / "Drishti-GS1_files/Drishti-GS1_files"
    for half, folder, names in (("Training", "GT", ("002", "004")), ("Test", "Test_GT", ("001",))):
        for name in (f"drishtiGS_{number}" for number in names):
            photograph(top / half / "Images/GLAUCOMA" / f"{name}.png")
            for kind, radius in (("ODseg", 20), ("cupseg", 8)):
                # 1 to 4 experts, each a little smaller than the one before
                soft = np.select([circle(radius - k) for k in (6, 4, 2, 0)], [255, 191, 128, 64])
                picture(top / half / folder / name / "SoftMap" / f"{name}_{kind}Softmap.png", soft)
    return {"Drishti_GS": ["drishtiGS_002", "drishtiGS_004", "drishtiGS_001"]}


def rim_one_r3(root):
    for group, names in (("Healthy", ("N-1-L", "N-2-R")), ("Glaucoma and suspects", ("G-1-L", "S-1-L"))):
        for name in names:
            top = root / "RIM-ONE r3" / group
            photograph(top / "Stereo Images" / f"{name}.jpg", (SIZE[0], 2 * SIZE[1]))
            for kind, radius in (("Disc", 20), ("Cup", 8)):
                whole = np.hstack([circle(radius), np.zeros(SIZE)]) * 255
                picture(top / "Average_masks" / f"{name}-{kind}-Avg.png", whole)
                picture(top / "Expert1_masks" / f"{name}-1-{kind}-exp1.png", whole)
                picture(top / "Expert2_masks" / f"{name}-{kind}-exp2.png", whole)
    return {"RIM_ONE_r3": ["G-1-L", "N-1-L", "N-2-R", "S-1-L"]}


def rim_one_dl(root):
    for partition in ("randomly", "by_hospital"):
        for split, group, name in (
            ("training_set", "normal", "r1_Im001"),
            ("training_set", "glaucoma", "r2_Im002"),
            ("test_set", "glaucoma", "r3_G-1-L"),
        ):
            photograph(root / f"RIM-ONE_DL_images/partitioned_{partition}/{split}/{group}/{name}.png")
            for kind, radius in (("Disc", 20), ("Cup", 8)):
                mask = root / f"RIM-ONE_DL_reference_segmentations/{group}/{name}-1-{kind}-T.png"
                picture(mask, circle(radius) * 255)
    return {"RIM_ONE_DL": ["r1_Im001", "r2_Im002", "r3_G-1-L"]}


def refuge(root):
    shades = np.array([255, 128, 0])[numbers()]
    for image, mask in (
        ("Training400/Glaucoma/g0001", "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001"),
        ("Training400/Non-Glaucoma/n0001", "Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma/n0001"),
        ("REFUGE-Validation400/V0001", "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001"),
        ("Test400/T0001", "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001"),
    ):
        photograph(root / f"{image}.jpg")
        picture(root / f"{mask}.bmp", shades)
    return {"REFUGE": ["g0001", "n0001"], "REFUGE_Valid": ["V0001", "T0001"]}


def origa(root):
    for name in ("001", "002"):
        photograph(root / f"ORIGA/ORIGA/Images/{name}.jpg")
        photograph(root / f"ORIGA/ORIGA/Images_Square/{name}.jpg")
        (root / "ORIGA/ORIGA/Semi-automatic-annotations").mkdir(parents=True, exist_ok=True)
        savemat(root / f"ORIGA/ORIGA/Semi-automatic-annotations/{name}.mat", {"mask": numbers().astype(np.uint8)})
    return {"ORIGA": ["001", "002"]}


def outline(radius):
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.stack([CENTRE[1] + radius * np.cos(angles), CENTRE[0] + radius * np.sin(angles)], axis=1)


def g1020(root):
    for number in (0, 1):
        photograph(root / f"G1020/Images/image_{number}.jpg")
        shapes = [{"label": "disc", "points": outline(20).tolist()}, {"label": "cup", "points": outline(8).tolist()}]
        (root / f"G1020/Images/image_{number}.json").write_text(json.dumps({"shapes": shapes}))
    return {"G1020": ["image_0", "image_1"]}


def papila(root):
    for name in ("RET002OD", "RET002OS"):
        photograph(root / f"PapilaDB-PAPILA/FundusImages/{name}.jpg")
        for kind, expert in itertools.product(("disc", "cup"), (1, 2)):
            path = root / f"PapilaDB-PAPILA/ExpertsSegmentations/Contours/{name}_{kind}_exp{expert}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(path, outline({"disc": 20, "cup": 8}[kind] - 2 * (expert - 1)))
    return {"PAPILA": ["RET002OD", "RET002OS"]}


def volume(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1])), path)


def scan(path, mask_path, codes, moments=None, seed=0):
    """Four slices of 64 x 72 voxels, labelled in the second and the third, in two of the moments."""
    labels = np.zeros((64, 72, 4), np.uint8)
    for index, code in enumerate(codes):
        labels[20 + 5 * index : 50 - 5 * index, 20:50, 1:3] = code
    image = np.random.default_rng(seed).normal(100, 30, (64, 72, 4)).astype(np.float32) + 50 * labels
    if moments:
        labels = np.stack([labels if moment in (0, 2) else 0 * labels for moment in range(moments)], axis=3)
        image = np.stack([image] * moments, axis=3)
    volume(path, image.astype(np.float32))
    volume(mask_path, labels)


def msd(root):
    top = root / "Task05_Prostate"
    scan(top / "imagesTr/prostate_00.nii.gz", top / "labelsTr/prostate_00.nii.gz", (1, 2))
    image = np.random.default_rng(1).normal(0, 1, (64, 72, 4, 2)).astype(np.float32)  # T2 and ADC
    volume(top / "imagesTr/prostate_00.nii.gz", image)
    (top / "imagesTr/._prostate_00.nii.gz").write_bytes(b"left by macOS")
    volume(top / "imagesTs/prostate_03.nii.gz", image)
    (top / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "PZ", "2": "TZ"}}))
    return {"Task05_Prostate": ["prostate_00_001", "prostate_00_002"]}


def prostate(root):
    for site, ending in (("RUNMC", "segmentation"), ("HK", "Segmentation")):
        scan(root / f"{site}/Case00.nii.gz", root / f"{site}/Case00_{ending}.nii.gz", (1, 2))
    return {"HK": ["Case00_001", "Case00_002"], "RUNMC": ["Case00_001", "Case00_002"]}


def mnms(root):
    for place, code in (("Training/Labeled", "A0S9V9"), ("Testing", "B1K2P5")):
        top = root / "OpenDataset" / place / code
        scan(top / f"{code}_sa.nii.gz", top / f"{code}_sa_gt.nii.gz", (3, 2, 1), moments=4)
    volume(root / "OpenDataset/Training/Unlabeled/C0/C0_sa.nii.gz", np.ones((64, 64, 2, 2), np.float32))
    rows = ["External code,VendorName,Vendor,Centre,ED,ES", "A0S9V9,Siemens,A,1,0,2", "B1K2P5,Philips,B,2,0,2"]
    table = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
    (root / "OpenDataset" / table).write_text("\n".join(rows))
    return {v: [f"{c}_t{t:02d}_{s:03d}" for t in (0, 2) for s in (1, 2)] for v, c in (("A", "A0S9V9"), ("B", "B1K2P5"))}


def acdc(root):
    top = root / "database/training/patient001"
    for frame in ("01", "12"):
        name = f"patient001_frame{frame}"
        scan(top / f"{name}.nii.gz", top / f"{name}_gt.nii.gz", (1, 2, 3), seed=int(frame))
    volume(top / "patient001_4d.nii.gz", np.ones((64, 64, 2, 2), np.float32))
    return {"ACDC": [f"patient001_frame{frame}_{number:03d}" for frame in ("01", "12") for number in (1, 2)]}


def kvasir_seg(root):
    names = ["cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4"]
    for name in names:
        photograph(root / f"Kvasir-SEG/images/{name}.jpg")
        (root / "Kvasir-SEG/masks").mkdir(parents=True, exist_ok=True)
        Image.fromarray((circle(20) * 255).astype(np.uint8)).convert("RGB").save(root / f"Kvasir-SEG/masks/{name}.jpg")
    return {"Kvasir_SEG": names}


def cvc_clinicdb(root):
    for name in ("1", "2"):
        photograph(root / f"CVC-ClinicDB/Original/{name}.tif")
        picture(root / f"CVC-ClinicDB/Ground Truth/{name}.tif", circle(20) * 255)
    return {"CVC_ClinicDB": ["1", "2"]}


TREES = [
    *(drishti_gs, rim_one_r3, rim_one_dl, refuge, origa, g1020, papila),
    *(msd, prostate, mnms, acdc, kvasir_seg, cvc_clinicdb),
]


@pytest.fixture(params=TREES, ids=lambda tree: tree.__name__)
def release(request, tmp_path):
    """Recipe, folder of a made release, and the names that become of it."""
    return request.param.__name__, tmp_path / "raw", request.param(tmp_path / "raw")


def recipe_for(name):
    """A recipe with a region that fits the small photographs."""
    changes = ["crop.pixels=64"] if load_recipe(name).crop else []
    return load_recipe(name, changes)


def files_below(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


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
        domains_of = {domain: domain for domain in expected}
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


def test_cups_outside_their_discs_are_counted(tmp_path, caplog):
    refuge(tmp_path / "other")
    rim_one_r3(tmp_path / "raw")
    cup = np.hstack([circle(8, centre=(40, 92)), np.zeros(SIZE)]) * 255
    picture(tmp_path / "raw/RIM-ONE r3/Healthy/Average_masks/N-1-L-Cup-Avg.png", cup)
    prepare_release(recipe_for("rim_one_r3"), tmp_path / "raw", tmp_path / "out")
    assert "1 images have pixels of the cup outside the disc" in caplog.text
    assert "N-1-L" in caplog.text


def test_recipes_import_no_torch():
    code = "import sys, tta_bench.data.recipes.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
