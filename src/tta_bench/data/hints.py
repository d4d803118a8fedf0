"""What would fit where a layout is not as the keys say: the folder that holds domains, and how masks are called."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tta_bench.data.decoders.base import stem_of, suffix_of
from tta_bench.data.files import is_text, listed
from tta_bench.errors import UserError
from tta_bench.runtime.names import normal

_DEPTH = 3  # folders below data.root in which data sets are looked for
_FOLDERS = 1000  # of them, at most
_SAMPLE = 20  # images by whose names patterns are found, before all are counted
_ALIKE = 0.6  # as difflib counts it, from which on a name stands for another
_MASKS = ("mask", "label", "seg", "segmentation", "annotation", "gt", "groundtruth")


@dataclass(frozen=True)
class Naming:
    """Where the masks of a domain are, or one part of each.

    Attributes:
        folder: below that of the domain, with slashes.
        before: what stands before the image's name.
        behind: what stands behind it.
    """

    folder: str
    before: str = ""
    behind: str = ""


def folder_below(root: Path, fits: Callable[[Path], bool]) -> Path | None:
    """The nearest folder below another, itself apart, for which something is true; None if there is none."""
    level = [root]
    looked = 0
    for _ in range(_DEPTH):
        level = [path for folder in level for path in _folders(folder)][: _FOLDERS - looked]
        looked += len(level)
        for path in level:
            if fits(path):
                return path
    return None


def dir_keys(root: Path) -> str:
    """What the folders of images and masks of domains below a folder, or of itself, seem to be called, as keys."""
    if keys := _dir_keys(_folders(root)):
        return keys
    keys = _dir_keys([root])
    above = os.path.dirname(os.path.abspath(root))
    return f"data.root={above} {keys}" if "mask_dir" in keys else ""


def _dir_keys(domains: Sequence[Path]) -> str:
    parts = [part for domain in domains for part in _folders(domain)]
    found = {part.name for part in parts if any(map(_is_file, _in(part)))}
    image = _alike(found, ("image", "photo", "picture"))
    if image is None:
        return ""
    mask = _alike(found - {image}, _MASKS)
    return f"data.image_dir={image}" + (f" data.mask_dir={mask}" if mask else "")


def namings(domain: Path, images: Collection[str], image_dir: str) -> dict[Naming, int]:
    """How files of a domain are called after its images: naming -> number of images that have such a file.

    Args:
        domain: its folder.
        images: names without ending.
        image_dir: its folder of images, which may hold masks, too.

    Returns:
        Those of more than half of the images, or of a quarter where images and masks lie together.
    """
    found: dict[Naming, int] = {}
    for folder in _places(domain, image_dir):
        names, together = _stems(domain / folder), folder == image_dir
        guesses = Counter(
            (*name.split(image, 1),)
            for image in sorted(images)[:_SAMPLE]
            for name in names
            if image in name and not (together and image == name)
        )
        for (before, behind), _ in guesses.most_common(_SAMPLE):
            count = sum(f"{before}{image}{behind}" in names for image in images)
            if count * (4 if together else 2) > len(images):
                found[Naming(folder, before, behind)] = count
    return found


def mask_keys(wanted: Mapping[str, Naming], found: Mapping[Naming, int], key: str, classes: Sequence[str]) -> str:
    """The keys with which masks would be found; empty where what is there tells none.

    Args:
        wanted: class, annotator, or empty for the one mask of an image -> what the configuration asks for.
        found: of :func:`namings`.
        key: that names the parts, ``class_masks`` or ``annotators``; empty where a mask is one file.
        classes: their names.
    """
    now = next(iter(wanted.values()))
    free = sorted(
        found.keys() - wanted.values(),
        key=lambda each: (_top(each.folder) != _top(now.folder), -found[each], each.folder, each.behind),
    )
    if not free or all(naming in found for naming in wanted.values()):
        return ""
    first, mask_dir = free[0], _top(now.folder) if key else now.folder
    # Parts of one mask lie in one folder under several names, or in folders beside each other under one.
    suffixes = [each for each in free if (each.folder, each.before) == (first.folder, first.before)]
    above = first.folder.rpartition("/")[0]
    folders = [each for each in free if above and each.folder.rpartition("/")[0] == above and _same_name(each, first)]
    if len(folders) > len(suffixes) or (key and above):
        parts, folder, behind = [f"{_last(each.folder)}/" for each in folders], above, first.behind
    elif len(suffixes) > 1 or (key and first.behind):
        parts, folder, behind = [each.behind for each in suffixes], first.folder, ""
    else:
        parts, folder, behind = [], first.folder, first.behind
    keys = [f"data.mask_dir={folder}"] if folder != mask_dir else []
    keys += [f"data.mask_prefix={first.before or 'null'}"] if first.before != now.before else []
    if not parts:
        keys += [f"data.mask_suffix={behind or 'null'}"] if key or behind != now.behind else []
        return " ".join([*keys, *([f"data.{key}=null"] if key else [])])
    if not key and len(classes) == 1:
        name, places = ("mask_dir", [each.folder for each in folders]) if above else ("mask_suffix", parts)
        return " or ".join(f"data.{name}={place}" for place in places)
    kept = {name: _part(naming) for name, naming in wanted.items() if name and naming in found}
    if key == "annotators":
        return " ".join([*keys, f"'data.annotators=[{', '.join([*kept.values(), *parts])}]'"])
    asked = {name: _part(wanted[name]) if name in wanted else name for name in classes if name not in kept}
    told = kept | _assigned(asked, parts)
    return " ".join([*keys, f"'data.class_masks={{{', '.join(f'{name}: {told[name]}' for name in classes)}}}'"])


def _assigned(asked: Mapping[str, str], parts: Sequence[str]) -> dict[str, str]:
    """The part that is called as each class is, or as it was asked for; where none is, those that are left."""
    chosen: dict[str, str] = {}
    for name, word in asked.items():
        likeness = {
            part: max(_likeness(name, part), _likeness(word, part)) for part in parts if part not in chosen.values()
        }
        best = max(likeness, key=lambda part: likeness[part], default=None)
        if best is not None and likeness[best] >= _ALIKE:
            chosen[name] = best
    rest = " or ".join(part for part in parts if part not in chosen.values())
    return {name: chosen.get(name, rest or "SUFFIX") for name in asked}


def _part(naming: Naming) -> str:
    """A naming as ``data.class_masks`` has it."""
    return f"{_last(naming.folder)}/" if "/" in naming.folder else naming.behind


def _same_name(one: Naming, other: Naming) -> bool:
    return (one.before, one.behind) == (other.before, other.behind)


def _last(folder: str) -> str:
    return folder.rpartition("/")[2]


def _likeness(name: str, part: str) -> float:
    """How much a suffix or folder is called as a class is, from 0 to 1."""
    one, other = (normal(each).casefold().strip("_-./ ") for each in (name, part))
    return 1.0 if one and one in other else difflib.SequenceMatcher(None, one, other).ratio()


def _alike(names: Collection[str], words: Sequence[str]) -> str | None:
    """The name that is most like any of some words; None where none is."""
    scores = {name: max(_likeness(word, name) for word in words) for name in sorted(names)}
    best = max(scores, key=lambda name: scores[name], default=None)
    return best if best is not None and scores[best] >= _ALIKE else None


def _top(folder: str) -> str:
    return folder.partition("/")[0]


def _places(domain: Path, image_dir: str) -> Iterator[str]:
    """The folders of a domain and those in them; of that of its images itself alone."""
    for folder in _folders(domain):
        yield folder.name
        if folder.name != image_dir:
            yield from (f"{folder.name}/{inner.name}" for inner in _folders(folder))


def _stems(folder: Path) -> set[str]:
    """The files of a folder, and the folders of its cases, without ending."""
    return {normal(path.name if path.is_dir() else stem_of(path)) for path in _in(folder) if is_text(path.name)}


def _folders(folder: Path) -> list[Path]:
    return [path for path in _in(folder) if os.path.isdir(path) and is_text(path.name)]


def _in(folder: Path) -> list[Path]:
    """As :func:`listed`; nothing of a folder that cannot be listed, which is reported elsewhere."""
    try:
        return listed(folder)
    except UserError:
        return []


def _is_file(path: Path) -> bool:
    return bool(suffix_of(path.name)) and not os.path.isdir(path)
