"""Layouts that are not as the keys say: what is told fits what is there, and systems' own files are never data."""

import re

import numpy as np
import pytest
from PIL import Image

from sections import data_config
from tta_bench.cli import main
from tta_bench.data.domain import Domain
from tta_bench.data.examination import duplicates
from tta_bench.data.files import is_own, listed
from tta_bench.data.readers.base import open_reader
from tta_bench.data.recipes.patterns import Files
from tta_bench.errors import UserError, folded
from tta_bench.serving.images import find_images

CLASSES = {"disc": (1, 2), "cup": (2,)}
LITTER = ("Thumbs.db", "ehthumbs.db", "desktop.ini", ".DS_Store", "._n_1.png", ".hidden.png", "__MACOSX")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8)).save(path)


def tree(root, *names, domain="north", images="image"):
    """Four images, and after each of them files of these names."""
    for number in range(4):
        picture(root / domain / images / f"n_{number}.png")
        for name in names:
            picture(root / domain / name.format(f"n_{number}"))


def faults(call):
    with pytest.raises(UserError) as caught:
        call()
    return caught.value.faults


MASKS = [
    ("mask/{}_seg.png", {}, "data.mask_suffix=_seg"),
    ("mask/{}_seg.png", {"mask_suffix": "_mask"}, "data.mask_suffix=_seg"),
    ("mask/seg_{}.png", {"mask_suffix": "_mask"}, "data.mask_prefix=seg_ data.mask_suffix=null"),
    ("labels/{}.png", {}, "data.mask_dir=labels"),
    ("labels/{}_gt.png", {"mask_dir": "lables"}, "data.mask_dir=labels data.mask_suffix=_gt"),
    ("image/{}_seg.png", {"mask_dir": "image", "mask_suffix": "_mask"}, "data.mask_suffix=_seg"),
    ("image/{}_seg.png", {}, "data.mask_dir=image data.mask_suffix=_seg"),
    ("mask/Disc/{}.png mask/Cup/{}.png", {}, "'data.class_masks={disc: Disc/, cup: Cup/}'"),
    (
        "mask/Disc/{}.png mask/Cup/{}.png",
        {"class_masks": {"disc": "disc/", "cup": "cups/"}},
        "'data.class_masks={disc: Disc/, cup: Cup/}'",
    ),
    (
        "mask/{}_disc.png mask/{}_cup.png",
        {"class_masks": {"disc": "_dsc", "cup": "_cp"}},
        "'data.class_masks={disc: _disc, cup: _cup}'",
    ),
    (
        "mask/{}_od.png mask/{}_oc.png",
        {"class_masks": {"disc": "_od", "cup": "_cup"}},
        "'data.class_masks={disc: _od, cup: _oc}'",
    ),
    (
        "mask/{}_od.png mask/{}_oc.png",
        {"class_masks": {"disc": "_odd", "cup": "_occ"}},
        "'data.class_masks={disc: _od, cup: _oc}'",
    ),
    ("mask/{}.png", {"class_masks": {"disc": "_od", "cup": "_oc"}}, "data.mask_suffix=null data.class_masks=null"),
    ("mask/a/{}.png mask/c/{}.png", {"annotators": ("a/", "b/")}, "'data.annotators=[a/, c/]'"),
]


@pytest.mark.parametrize(("names", "keys", "told"), MASKS)
def test_wrong_keys_of_masks_are_told_those_that_fit(tmp_path, names, keys, told):
    tree(tmp_path, *names.split())
    reader = open_reader(data_config(root=tmp_path, classes=CLASSES, **keys))
    try:
        assert not any(record.labelled for record in reader.records("north"))
        found = reader.mask_hint("north")
    except UserError as error:
        found = error.faults[0].rpartition("those that are there fit ")[2]
    assert found == told


def test_the_keys_that_are_told_find_the_masks(tmp_path):
    tree(tmp_path, "labels/{}_gt.png")
    reader = open_reader(data_config(root=tmp_path, mask_dir="labels", mask_suffix="_gt"))
    assert all(record.labelled for record in reader.records("north"))
    assert reader.mask_hint("north") == ""


def test_a_class_in_a_folder_that_is_not_there_is_told(tmp_path, caplog):
    tree(tmp_path, "mask/Disc/{}.png", "mask/Cup/{}.png")
    open_reader(data_config(root=tmp_path, classes=CLASSES, class_masks={"disc": "Disc/", "cup": "cups/"})).records(
        "north"
    )
    assert "'data.class_masks={disc: Disc/, cup: Cup/}'" in caplog.text


@pytest.mark.parametrize("place", ["north", "north/image", "north/mask", "..", "../.."])
def test_a_root_too_high_or_too_deep_is_told_the_one_that_fits(tmp_path, place):
    root = tmp_path / "one/extra"
    tree(root, "mask/{}.png")
    (tmp_path / "one/Thumbs.db").touch()
    (sentence,) = faults(open_reader(data_config(root=root / place)).domain_names)
    assert "holds no domain" in sentence
    told = sentence.rpartition("data.root=")[2]
    assert open_reader(data_config(root=told)).domain_names() == ("north",)


@pytest.mark.parametrize("place", ["north", ".."])
def test_the_folder_of_the_lists_is_told(tmp_path, place):
    root = tmp_path / "extra"
    tree(root)
    (root / "REFUGE.csv").write_text("image,mask\nnorth/image/n_0.png,north/image/n_1.png\n")
    config = {"name": "fundus", "classes": CLASSES, "domains": {"B": "REFUGE"}}
    (sentence,) = faults(open_reader(data_config(root=root / place, **config)).domain_names)
    told = sentence.rpartition("data.root=")[2]
    assert open_reader(data_config(root=told, **config)).domain_names() == ("B",)


def test_other_names_of_folders_are_told_as_keys(tmp_path):
    tree(tmp_path, "Labels/{}.png", images="Images")
    (sentence,) = faults(open_reader(data_config(root=tmp_path)).domain_names)
    assert sentence.endswith("data.image_dir=Images data.mask_dir=Labels")
    (sentence,) = faults(open_reader(data_config(root=tmp_path / "north")).domain_names)
    assert sentence.endswith(f"data.root={tmp_path} data.image_dir=Images data.mask_dir=Labels")


def test_of_one_class_each_file_that_may_be_it_is_told(tmp_path):
    tree(tmp_path, "mask/{}_a.png", "mask/{}_b.png")
    told = faults(lambda: open_reader(data_config(root=tmp_path)).records("north"))[0]
    assert told.endswith("data.mask_suffix=_a or data.mask_suffix=_b")


def test_what_systems_leave_is_in_no_list(tmp_path):
    tree(tmp_path, "mask/{}.png")
    for folder in (tmp_path, tmp_path / "north", tmp_path / "north/image", tmp_path / "north/mask"):
        for name in LITTER:
            (folder / name).write_bytes(b"of a system")
    assert not any(map(is_own, LITTER))
    assert [path.name for path in listed(tmp_path)] == ["north"]
    reader = open_reader(data_config(root=tmp_path))
    assert [record.labelled for record in reader.records("north")] == [True] * 4
    assert len(Files(tmp_path).names) == 8
    for place in (str(tmp_path / "north/image"), str(tmp_path / "north/image/*")):
        assert [image.path.name for image in find_images(place)] == [f"n_{number}.png" for number in range(4)]


def test_empty_images_are_no_copies_of_each_other():
    rng = np.random.default_rng(0)
    dark = [rng.integers(0, 9, (3, 64, 64, 3), np.uint8) for _ in "AB"]
    first, second = (
        Domain(name, ("1", "2", "3"), images, None, CLASSES, "") for name, images in zip("AB", dark, strict=True)
    )
    assert duplicates([first, second]) == []
    shared = np.repeat(np.repeat(rng.integers(0, 256, (1, 8, 8, 3), np.uint8), 8, 1), 8, 2)
    both = [Domain(name, ("1", "2"), np.concatenate([shared, dark[0][:1]]), None, CLASSES, "") for name in "AB"]
    assert "share 1 images, such as 1 and 1" in duplicates(both)[0]


def test_data_check_has_a_row_for_a_domain_of_bad_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    tree(tmp_path / "own", "mask/{}.png")
    tree(tmp_path / "own", "mask/{}.png", domain="south")
    for path in (tmp_path / "own/south/image").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SystemExit) as left:
        main(["data", "check", "data=folder", f"data.root={tmp_path / 'own'}", f"results_root={tmp_path / 'out'}"])
    assert left.value.code == 2
    rows = [line for line in capsys.readouterr().out.splitlines() if "south" in line]
    assert "4 faults, the first: south/image/n_0.png is empty" in re.sub(r"\s+", " ", rows[0])


def test_previews_of_two_roots_are_two_pictures(tmp_path, capsys):
    paths = []
    for place in ("one", "two"):
        tree(tmp_path / place / "own", "mask/{}.png")
        words = ["data=folder", f"data.root={tmp_path / place / 'own'}", f"results_root={tmp_path / 'out'}"]
        for _ in range(2):
            main(["data", "preview", *words, "data.image_size=64"])
        paths.append({line for line in capsys.readouterr().out.splitlines() if line.startswith("wrote")})
    assert [len(each) for each in paths] == [1, 1]
    assert len(set.union(*paths)) == len(list((tmp_path / "out/preview").iterdir())) == 2
    assert all("folder-own-" in path for each in paths for path in each)


def test_faults_of_prepare_are_folded(tmp_path, capsys):
    release = tmp_path / "Our Clinic"
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "title: t\nget: g\nlicence: l\ncoding: c\nclasses: {polyp: [1]}\n"
        'parts: [{domain: d, images: "photos/{name}.png"}]\nmasks: {files: "masks/{name}_m.png"}\n'
    )
    for name in ("anna", "bob", "carl", "dora", "emil", "fay"):
        picture(release / "photos" / f"case {name}.png")
    errors = {}
    for command in (["data", "prepare"], ["data", "check"]):
        for flags in ([], ["--all"]):
            out = [str(tmp_path / "out")] if "prepare" in command else []
            with pytest.raises(SystemExit):
                main([*command, str(recipe), str(release), *out, *flags])
            errors[(command[1], *flags)] = capsys.readouterr().err.splitlines()
    for command in ("prepare", "check"):
        assert len(errors[(command, "--all")]) == 6
        assert len(errors[(command,)]) == 4
        assert errors[(command,)][-1].startswith("error: ... and 3 more of this kind")


def test_faults_with_other_words_are_not_folded():
    apart = [f"domain 'a': class {word} lies outside" for word in ("disc", "cup", "rim", "vessel", "lens")]
    assert folded(apart) == tuple(apart)
