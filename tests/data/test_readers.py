"""The three layouts: which files make a domain, in which order, and how faulty trees are refused."""

import logging
import os
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from sections import data_config
from tta_bench.data.decoding import fitted
from tta_bench.data.file_record import FileRecord
from tta_bench.data.readers.base import open_reader
from tta_bench.data.synthetic.centres import CENTRES, VERSION
from tta_bench.data.synthetic.render import render
from tta_bench.errors import UserError
from tta_bench.ops.geometry import Geometry

OFFICIAL = {"A": "RIM_ONE_r3", "B": "REFUGE", "C": "ORIGA", "D": "REFUGE_Valid", "E": "Drishti_GS"}


def picture(path, seed=0, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def mask(path, values=(0, 1), size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), size)).save(path)


def folder(root):
    return open_reader(data_config(root=root))


def fundus(root, domains=OFFICIAL):
    classes = {"disc": (1, 2), "cup": (2,)}
    return open_reader(data_config(name="fundus", root=root, classes=classes, domains=domains))


def faults(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return caught.value.faults


class TestRoot:
    def test_missing(self, tmp_path):
        (sentence,) = faults(folder, tmp_path / "nowhere")
        assert sentence.startswith(f"data.root={tmp_path / 'nowhere'} does not exist")

    def test_a_file(self, tmp_path):
        picture(tmp_path / "a.png")
        assert "is not a folder" in faults(folder, tmp_path / "a.png")[0]

    def test_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        picture(tmp_path / "data/A/image/1.png")
        assert folder("~/data").domain_names() == ("A",)


class TestFolder:
    def test_pairs_by_stem_sorted(self, tmp_path):
        for name in ("b.png", "a.jpg", "c.bmp"):
            picture(tmp_path / "X/image" / name)
            mask((tmp_path / "X/mask" / name).with_suffix(".png"))
        (tmp_path / "X/image/.DS_Store").touch()
        (tmp_path / "notes").mkdir()
        (tmp_path / "manifest.csv").touch()
        reader = folder(tmp_path)
        assert reader.domain_names() == ("X",)
        records = reader.records("X")
        assert [record.name for record in records] == ["a", "b", "c"]
        kept = fitted(records[0].read(32), Geometry(32))
        assert kept.image.shape == (32, 32, 3)
        assert kept.mask.shape == (32, 32)
        assert (kept.height, kept.width, kept.counts) == (64, 64, {0: 2048, 1: 2048})

    def test_every_fault_of_a_listing(self, tmp_path):
        images, masks = tmp_path / "X/image", tmp_path / "X/mask"
        picture(images / "lonely.png")
        picture(images / "twin.png")
        picture(images / "twin.jpg")
        mask(masks / "twin.png")
        mask(masks / "orphan.png")
        (images / "patient7").mkdir()
        sentences = faults(folder(tmp_path).records, "X")
        assert len(sentences) == 4
        text = "\n".join(sentences)
        assert f"{images / 'lonely.png'} has no mask: add {masks / 'lonely'}.*" in text
        assert f"{masks / 'orphan.png'} has no image" in text
        assert "twin.png share one name: keep one" in text
        assert f"{images / 'patient7'} holds no image" in text

    def test_no_mask_folder(self, tmp_path):
        picture(tmp_path / "X/image/a.png")
        (record,) = folder(tmp_path).records("X")
        assert not record.labelled
        assert record.origin == str(tmp_path / "X/mask/a.*")
        kept = fitted(record.read(32), Geometry(32))
        assert kept.image.shape == (32, 32, 3)
        assert (kept.mask, kept.height, kept.width, kept.counts) == (None, 64, 64, {})

    def test_an_empty_mask_folder_is_one_that_lacks_them(self, tmp_path):
        picture(tmp_path / "X/image/a.png")
        (tmp_path / "X/mask").mkdir()
        assert "a.png has no mask" in faults(folder(tmp_path).records, "X")[0]

    def test_empty_domain(self, tmp_path):
        (tmp_path / "X/image").mkdir(parents=True)
        (tmp_path / "X/mask").mkdir()
        assert "holds no image" in faults(folder(tmp_path).records, "X")[0]

    def test_no_domain(self, tmp_path):
        assert "holds no domain" in faults(folder(tmp_path).domain_names)[0]

    def test_unknown_domain(self, tmp_path):
        picture(tmp_path / "LONDON/image/a.png")
        assert "did you mean 'LONDON'?" in faults(folder(tmp_path).records, "LONDN")[0]

    @pytest.mark.parametrize(("image_form", "mask_form"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
    def test_names_pair_across_unicode_forms_and_stay(self, tmp_path, image_form, mask_form):
        name = "Zürich é"
        picture(tmp_path / f"X/image/{unicodedata.normalize(image_form, name)}.png")
        mask(tmp_path / f"X/mask/{unicodedata.normalize(mask_form, name)}.png")
        (record,) = folder(tmp_path).records("X")
        assert record.name == unicodedata.normalize(image_form, name)
        assert record.read(64).mask.shape == (64, 64)

    def test_both_forms_in_one_folder_are_one_name_twice(self, tmp_path):
        for form in ("NFC", "NFD"):
            picture(tmp_path / f"X/image/{unicodedata.normalize(form, 'é')}.png")
        mask(tmp_path / "X/mask/é.png")
        (sentence,) = faults(folder(tmp_path).records, "X")
        assert "share one name" in sentence

    @pytest.mark.skipif(sys.platform == "darwin", reason="its file systems hold UTF-8 alone")
    def test_names_that_are_not_utf8_are_refused_by_name(self, tmp_path):
        picture(tmp_path / "X/image/a.png")
        mask(tmp_path / "X/mask/a.png")
        (tmp_path / "X/image" / os.fsdecode(b"caf\xe9.png")).touch()
        (sentence,) = faults(folder(tmp_path).records, "X")
        assert sentence == f"the name of {tmp_path}/X/image/caf\\xe9.png is not UTF-8: rename it"
        (tmp_path / os.fsdecode(b"Z\xfcrich") / "image").mkdir(parents=True)
        (sentence,) = faults(folder(tmp_path).domain_names)
        assert "Z\\xfcrich is not UTF-8" in sentence
        assert "Z\\xfcrich is not UTF-8" in faults(folder, tmp_path / os.fsdecode(b"Z\xfcrich"))[0]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
    def test_forbidden(self, tmp_path):
        picture(tmp_path / "X/image/a.png")
        tmp_path.chmod(0o100)
        try:
            assert "cannot be listed" in faults(folder(tmp_path).domain_names)[0]
        finally:
            tmp_path.chmod(0o700)


class TestPair:
    def test_both_files_are_judged(self, tmp_path):
        (tmp_path / "mask.png").touch()
        sentences = faults(FileRecord("a", tmp_path / "image.png", tmp_path / "mask.png").read, 64)
        assert len(sentences) == 2
        assert "image.png does not exist" in sentences[0]
        assert "mask.png is empty" in sentences[1]

    def test_sizes_differ(self, tmp_path):
        picture(tmp_path / "image.png", size=(64, 80))
        mask(tmp_path / "mask.png", size=(64, 64))
        (sentence,) = faults(FileRecord("a", tmp_path / "image.png", tmp_path / "mask.png").read, 64)
        assert "image.png has 80x64" in sentence
        assert "mask.png has 64x64: give both the same size" in sentence

    def test_stamp_follows_the_files(self, tmp_path):
        picture(tmp_path / "image.png")
        record = FileRecord("a", tmp_path / "image.png", tmp_path / "mask.png")
        stamps = [record.stamp()]
        mask(tmp_path / "mask.png")
        stamps.append(record.stamp())
        os.utime(tmp_path / "image.png", ns=(1, 1))
        stamps.append(record.stamp())
        assert len({tuple(stamp) for stamp in stamps}) == 3


class TestFundus:
    def lists(self, root, **rows):
        for name, entries in rows.items():
            lines = [f"{name}/image/{entry}.png,{name}/mask/{entry}.tif" for entry in entries]
            (root / f"{name}.csv").write_text("\n".join(["image,mask", *lines]) + "\n")
            for entry in entries:
                picture(root / f"{name}/image/{entry}.png")
                mask(root / f"{name}/mask/{entry}-1.tif", values=(255, 128, 0, 255))

    def test_train_then_test_in_file_order(self, tmp_path):
        self.lists(tmp_path, REFUGE_train=["9", "1"], REFUGE_test=["5", "0"], REFUGE_Valid=["z", "a"])
        reader = fundus(tmp_path)
        assert reader.domain_names() == ("B", "D")
        assert [record.name for record in reader.records("B")] == [
            "REFUGE_train/image/9.png",
            "REFUGE_train/image/1.png",
            "REFUGE_test/image/5.png",
            "REFUGE_test/image/0.png",
        ]
        assert [record.name for record in reader.records("D")] == [
            "REFUGE_Valid/image/z.png",
            "REFUGE_Valid/image/a.png",
        ]

    def test_grey_mask_named_tif_lies_at_minus_one(self, tmp_path):
        self.lists(tmp_path, REFUGE_Valid=["a"])
        (record,) = fundus(tmp_path).records("D")
        assert record.origin.endswith("a-1.tif")
        kept = fitted(record.read(64), Geometry(64))
        assert kept.counts == {0: 2048, 1: 1024, 2: 1024}
        assert kept.mask[0, :4].tolist() == [0, 1, 2, 0]

    @pytest.mark.parametrize("there", [True, False])
    def test_the_rule_of_minus_one_is_told(self, tmp_path, there):
        self.lists(tmp_path, REFUGE_Valid=["a"])
        path = tmp_path / "REFUGE_Valid/mask/a-1.tif"
        listed = path.with_name("a.tif")
        path.rename(listed if there else path.with_name("other.tif"))
        (record,) = fundus(tmp_path).records("D")
        (sentence,) = faults(record.read, 64)
        assert f"{path} does not exist: a mask that is listed as NAME.tif lies on disk as NAME-1.tif" in sentence
        assert f"{listed} {'exists, but is not used: rename it' if there else 'does not exist either'}" in sentence

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_lists_and_files_in_other_unicode_forms(self, tmp_path, form):
        self.lists(tmp_path, REFUGE_Valid=[unicodedata.normalize(form, "é")])
        other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", (tmp_path / "REFUGE_Valid.csv").read_text())
        (tmp_path / "REFUGE_Valid.csv").write_text(other)
        (record,) = fundus(tmp_path).records("D")
        assert record.read(64).mask[0, :4].tolist() == [0, 1, 2, 0]

    def test_byte_order_mark_and_carriage_returns(self, tmp_path):
        (tmp_path / "REFUGE_Valid.csv").write_bytes(b"\xef\xbb\xbfimage, mask\r\nx/a.png, y/a.png\r\n")
        (record,) = fundus(tmp_path).records("D")
        assert (record.image, record.mask) == (tmp_path / "x/a.png", tmp_path / "y/a.png")

    def test_half_a_split(self, tmp_path):
        self.lists(tmp_path, REFUGE_train=["a"])
        (sentence,) = faults(fundus(tmp_path).records, "B")
        assert f"{tmp_path / 'REFUGE_test.csv'} does not exist: add it" in sentence

    def test_domain_not_on_disk(self, tmp_path):
        self.lists(tmp_path, REFUGE_Valid=["a"])
        (sentence,) = faults(fundus(tmp_path).records, "C")
        assert "ORIGA_train.csv" in sentence
        assert "leave it out of source and target" in sentence

    def test_no_list_at_all(self, tmp_path):
        assert "RIM_ONE_r3_train.csv" in faults(fundus(tmp_path).domain_names)[0]

    def test_missing_columns(self, tmp_path):
        (tmp_path / "REFUGE_Valid.csv").write_text("images,labels\na,b\n")
        sentences = faults(fundus(tmp_path).records, "D")
        assert len(sentences) == 2
        assert "no column 'image' (columns found: images, labels)" in sentences[0]
        assert "did you mean 'images'?" in sentences[0]
        assert "no column 'mask'" in sentences[1]

    def test_faulty_rows_are_named_by_line(self, tmp_path):
        (tmp_path / "REFUGE_Valid.csv").write_text("image,mask\na.png,\n../b.png,b.png\nc.png,/c.png\nd.png\n")
        sentences = faults(fundus(tmp_path).records, "D")
        assert len(sentences) == 4
        assert "line 2: column 'mask' is empty" in sentences[0]
        assert "line 3: image '../b.png' leaves data.root" in sentences[1]
        assert "line 4: mask '/c.png' leaves data.root" in sentences[2]
        assert "line 5: column 'mask' is empty" in sentences[3]

    def test_repeated_rows_are_kept_and_reported(self, tmp_path, caplog):
        (tmp_path / "REFUGE_Valid.csv").write_text("image,mask\na.png,a.png\na.png,a.png\n")
        with caplog.at_level(logging.WARNING):
            assert len(fundus(tmp_path).records("D")) == 2
        assert "a.png" in caplog.text


class TestSynthetic:
    def test_renders_the_centres(self):
        classes = {"disc": (1, 2), "cup": (2,)}
        reader = open_reader(data_config(name="synthetic", classes=classes, seed=3))
        assert reader.domain_names() == tuple(CENTRES)
        name = reader.domain_names()[1]
        records = reader.records(name)
        assert len(records) == CENTRES[name].count
        assert records[2].stamp() == [VERSION, 3]
        sample = records[2].read(64)
        image, mask = render(name, 2, seed=3, size=64)
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.mask, mask)
