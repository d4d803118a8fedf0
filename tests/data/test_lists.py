"""CSV lists: what is read, and that every way to spoil one is told by its cause."""

import os
import unicodedata

import pytest

from tta_bench.data.lists import ListedPair, read_list
from tta_bench.errors import UserError


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def faults(path):
    with pytest.raises(UserError) as caught:
        read_list(path)
    assert all(str(path) in sentence and ": " in sentence for sentence in caught.value.faults)
    return caught.value.faults


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"image;mask\na.png;b.png\n", "separated by ';'"),
        (b"image\tmask\na.png\tb.png\n", "separated by tabs"),
        (b"image|mask\na.png|b.png\n", "separated by '|'"),
        (b"image mask\na.png b.png\n", "separated by spaces"),
        (b'"image";"mask"\n"a.png";"b.png"\n', "separated by ';'"),
        (b"image,mask\na.png;b.png\n", "line 2: column 'mask' is empty, its row seems to be separated by ';'"),
        (b"image,mask\nx\\a.png,b.png\n", "line 2: image 'x\\a.png' has backslashes: write 'x/a.png'"),
        (b"image,mask\nC:\\x\\a.png,b.png\n", "leaves data.root"),
        (b"image,mask\na.png,b.\0png\n", "line 2: there is a NUL byte"),
        (bytes(200), "line 1: there is a NUL byte"),
        ("image,mask\na.png,b.png\n".encode("utf-16"), "is UTF-16"),
        ("image,mask\na.png,b.png\n".encode("utf-16-le"), "NUL byte, so the file is damaged or UTF-16"),
        ("image,mask\na.png,b.png\nä.png,ö.png\n".encode("latin-1"), "line 3: byte 23 is not UTF-8"),
        (b"image,mask,image\na.png,b.png,c.png\n", "2 columns 'image'"),
        (b"image,mask, mask\na.png,b.png,c.png\n", "2 columns 'mask'"),
        (b"image\na.png\n", "no column 'mask' (columns found: image)"),
        (b"a.png,b.png\n", "no column 'image'"),
        (b"Image,mask\na,b\n", "did you mean 'Image'?"),
        (b'image,mask\na.png,b.png\n"c.png,d.png\ne.png,f.png\n', "line 3: this row cannot be read"),
        (b'image,mask\na.png,"b.png\nc.png,d"\n', "line 3: mask holds a line break"),
        (b'image,mask\na.png,"b"x.png\n', "line 2: this row cannot be read"),
        (b"image,mask\na,1.png,b.png\n", "line 2: 3 fields where the header has 2"),
        (b"image,mask\n" + b"a" * 200_000 + b",b.png\n", "line 2: this row cannot be read (field larger"),
        (b"\n\n", "no column 'image' (columns found: none)"),
        (b"", "no column 'image' (columns found: none)"),
        (b"image,mask\n", "lists no image"),
    ],
)
def test_the_cause_is_named(tmp_path, content, cause):
    assert cause in faults(written(tmp_path / "list.csv", content))[0]


@pytest.mark.parametrize("kind", ["pipe", "folder", "large", "missing"])
def test_other_things_in_its_place(tmp_path, kind):
    path = tmp_path / "list.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**40)  # sparse
    cause = {"pipe": "named pipe", "folder": "a folder", "large": "no list of images", "missing": "does not exist"}
    assert cause[kind] in faults(path)[0]


@pytest.mark.parametrize(
    "name",
    [
        "a b.png",
        " a.png",
        "a.png ",
        "a,b.png",
        'a"b.png',
        "é.png",
        "e\u0301.png",
        "a\\b.png",
        "null",
        "=cmd|x",
        "a\u2028b.png",
    ],
)
def test_names_of_files_survive(tmp_path, name):
    (tmp_path / name).touch()
    quoted = '"' + name.replace('"', '""') + '"'
    path = written(tmp_path / "list.csv", f"image,mask\n{quoted},{quoted}\n")
    assert read_list(path) == [ListedPair(name, name)]


def test_extra_columns_blank_lines_and_blanks(tmp_path):
    path = written(tmp_path / "list.csv", "id, image ,mask\r\n\r\n1, a.png, b.png ,,\r\n")
    assert read_list(path) == [ListedPair("a.png", "b.png")]


def test_a_backslash_of_a_decomposed_name_is_no_fault(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "é\\b.png")).touch()
    path = written(tmp_path / "list.csv", "image,mask\né\\b.png,é\\b.png\n")
    assert len(read_list(path)) == 1
