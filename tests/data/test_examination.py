"""What data check finds in readable domains: cut regions, cups outside discs, copies; and many faults in few lines."""

import numpy as np

from tta_bench.data.domain import Domain
from tta_bench.data.examination import duplicates, suspicions
from tta_bench.errors import folded

CLASSES = {"disc": (1, 2), "cup": (2,)}


def disc(centre=(32, 32), cup=None, radius=12):
    rows, columns = np.mgrid[:64, :64]
    mask = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2).astype(np.uint8)
    cup = centre if cup is None else cup
    mask[(rows - cup[0]) ** 2 + (columns - cup[1]) ** 2 <= 25] = 2
    return mask


def domain(name, masks, seed=0, images=None):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (len(masks), 8, 8, 3), np.uint8)
    images = np.repeat(np.repeat(coarse, 8, 1), 8, 2) if images is None else images
    names = tuple(f"{name}{index}" for index in range(len(masks)))
    return Domain(name, names, images, np.stack(masks), CLASSES, "")


def test_sound_domains_are_not_suspected():
    assert suspicions(domain("A", [disc()] * 8)) == []
    assert suspicions(domain("A", [disc((8, 8))] * 8)) == [], "always at the border, as vessels are"
    assert duplicates([domain("A", [disc()] * 40), domain("B", [disc()] * 40, seed=1)]) == []


def test_cut_discs_and_cups_outside_are_named():
    masks = [disc()] * 6 + [disc((8, 32)), disc(cup=(32, 55))]
    cut, outside = suspicions(domain("A", masks))
    assert "class 'disc' touches the border in 1 of 8 images, such as A6" in cut
    assert "class 'cup' lies outside the rest of class 'disc' in 1 of 8 images, such as A7" in outside


def test_copies_across_domains_are_found_also_after_recompression():
    first, second = domain("A", [disc()] * 5), domain("B", [disc()] * 5, seed=1)
    images = np.array(second.images)
    noise = np.random.default_rng(2).integers(-3, 4, images[0].shape)
    images[4] = np.clip(first.images[2].astype(int) + noise, 0, 255)
    (sentence,) = duplicates([first, domain("B", [disc()] * 5, images=images), domain("C", [disc()] * 5, seed=3)])
    assert "domains 'A' and 'B' share 1 images, such as A2 and B4" in sentence


def test_faults_of_one_kind_are_folded():
    faults = [f"/data/A/image/{index}.png is empty (0 bytes): copy it again" for index in range(40)]
    other = "domain 'Q' has no masks"
    lines = folded([*faults, other])
    assert lines == (*faults[:3], "... and 37 more of this kind, the last: " + faults[-1], other)
    assert folded(faults[:4]) == tuple(faults[:4]), "a line is not replaced by a line"
