"""The pure parts of ``tta-bench predict``: names of files, images that are found, values of masks."""

import pytest
import torch
from predicted import CLASSES

from tta_bench.serving.images import file_stems, find_images
from tta_bench.serving.masks import mask_values, memberships, vertical_ratio


def test_no_two_images_share_the_name_of_a_file():
    names = ["a.png", "a.jpg", "a.jpg.png", "A.PNG", "b.tif", "x/a.png", "/x/b.png", "../x/b.png", "x.y/c.png", "x.png"]
    stems = file_stems(names)
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert stems[4] == "b"
    assert stems[-2] == "x.y/c"
    assert not any(stem.startswith("/") or ".." in stem for stem in stems)


def test_images_are_found_by_pattern_and_through_links_without_end(tmp_path):
    for name in ("p1/l.png", "p1/r.PNG", "p2/l.jpg", "p2/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "p1/again").symlink_to(tmp_path)
    found = find_images(str(tmp_path), stream_by="folder")
    assert [(image.name, image.stream) for image in found] == [
        ("p1/l.png", "p1"),
        ("p1/r.PNG", "p1"),
        ("p2/l.jpg", "p2"),
    ]
    assert [image.name for image in find_images(f"{tmp_path}/*/l.*")] == ["p1/l.png", "p2/l.jpg"]


def test_a_mask_says_what_its_values_can_and_the_most_probable_else():
    assert memberships(CLASSES) == {0: (False, False), 1: (True, False), 2: (True, True)}
    # background, rim, cup in disc, a weak cup and a strong one outside the disc
    logits = torch.tensor([[-3.0, 2.0, 2.0, -2.0, -1.0], [-3.0, -1.0, 1.0, 1.0, 2.0]])[:, None]
    assert mask_values(logits >= 0, logits, 0.5, CLASSES).tolist() == [[0, 1, 2, 0, 2]]
    exclusive = {"left": (3,), "right": (7,)}
    logits = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 2.0, -1.0]])[:, None]
    assert mask_values(logits >= 0, logits, 0.5, exclusive).tolist() == [[3, 7, 0]]
    with pytest.raises(ValueError, match=r"classes a and b have the same mask values.*--per-class"):
        memberships({"a": (1,), "b": (1,)})


def test_the_cup_to_disc_ratio_is_one_of_heights():
    disc, cup = torch.zeros(2, 20, 20, dtype=torch.bool)
    assert vertical_ratio(disc, cup) is None
    disc[5:15, 3:5] = True
    assert vertical_ratio(disc, cup) == 0
    cup[6:10, 3:9] = True
    assert vertical_ratio(disc, cup) == 0.4
