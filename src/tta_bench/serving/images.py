"""Which images are predicted, in which order, in which streams, and what the files of each are called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tta_bench.data.decoders.base import AXIS, readable_suffixes, slices_in, stem_of, suffix_of
from tta_bench.data.file_record import FileRecord
from tta_bench.data.files import is_own, is_text, listed, on_disk, printable
from tta_bench.data.lists import read_table
from tta_bench.errors import UserError, nearest
from tta_bench.runtime.names import normal
from tta_bench.schema import DataConfig
from tta_bench.serving.folder import holds_predictions

FOLDER = "folder"
"""``--stream-by folder``: a stream for the images of each folder; a column of a list that is called so comes first."""


@dataclass(frozen=True)
class ImageFile:
    """One image to predict.

    Attributes:
        name: its path below the folder that was asked for, with slashes.
        path: of the file.
        stem: of all files that are written for it; of no other image, also where case does not count.
        stream: which stream it belongs to; empty if there is one for all.
        case: of a slice, what the files of its whole volume are called; else None.
        slice: its number in the file, from 0; None where the file is one picture.
    """

    name: str
    path: Path
    stem: str = ""
    stream: str = ""
    case: str | None = None
    slice: int | None = None

    def record(self, data: DataConfig) -> FileRecord:
        """What reads it; it has no mask, and in the place of one's path stands its own."""
        return FileRecord(
            str(self.path),
            self.path,
            self.path,
            labelled=False,
            max_pixels=data.max_pixels,
            intensity=data.intensity,
            case=self.case,
            slice=self.slice,
            in_file=self.slice is not None,
            axis=AXIS if data.axis is None else data.axis,
        )


def find_images(
    place: str,
    order: Path | None = None,
    stream_by: str | None = None,
    outside: Path | None = None,
    axis: int | None = None,
) -> tuple[ImageFile, ...]:
    """The images of a folder, a pattern, a list or a file; of volumes the header alone is read.

    Args:
        place: a folder, searched with all below it; a pattern with ``*``, ``**``, ``?`` or ``[…]``; a CSV file with a
            column ``image``, relative to its folder; or an image.
        order: a text file with all their names, one per line; default: that of the list, else sorted by name.
        stream_by: :data:`FOLDER` or a column of the list; default: one stream.
        outside: a folder that may hold none of them, because results go there.
        axis: of volumes, that their slices are counted along.

    Returns:
        In stream order.

    Raises:
        UserError: nothing is there, or every fault of names, list and order.
    """
    path = Path(place).expanduser()
    listed = path.is_file() and path.suffix.lower() == ".csv"
    if stream_by not in (None, FOLDER) and not listed:
        raise UserError(f"--stream-by {stream_by} is a column of a CSV list, and {place} is none: --stream-by {FOLDER}")
    if listed:
        images = _of_list(path, stream_by)
    elif path.is_file():
        images = [ImageFile(path.name, path)]
    elif path.is_dir():
        images = _named(path, _walk(path))
        if not images:
            kinds = ", ".join(readable_suffixes())
            raise UserError(f"{place} holds no image: its files end in none of {kinds}")
    elif glob.has_magic(place):
        root = Path(*_fixed(path))
        found = (Path(each) for each in glob.iglob(str(path), recursive=True) if os.path.isfile(each))
        images = _named(root, (file for file in found if is_own(file.name) and not _predicted(file, root)))
        if not images:
            raise UserError(f"no file is called {place}: check the pattern, and put it in quotation marks")
    else:
        raise UserError(f"{place} does not exist: give a folder of images, a pattern, a CSV list or an image")
    faults = [f"the name of {printable(i.path)} is not UTF-8: rename it" for i in images if not is_text(i.name)]
    counts = Counter(image.name for image in images)
    faults += [f"{name} is listed {count} times: list it once" for name, count in counts.items() if count > 1]
    if outside is not None:
        inside = [image for image in images if outside.resolve() in image.path.resolve().parents]
        if inside:
            faults.append(f"{inside[0].path} lies in {outside}, where results go: choose a folder that holds no image")
    if faults:
        raise UserError(faults)
    if stream_by == FOLDER and not any(image.stream for image in images):
        images = [replace(image, stream=str(PurePosixPath(image.name).parent)) for image in images]
    if order is not None:
        images = _ordered(images, order)
    stems = file_stems([image.name for image in images])
    named = (replace(image, stem=stem) for image, stem in zip(images, stems, strict=True))
    return tuple(each for image in named for each in _slices(image, AXIS if axis is None else axis))


def _slices(image: ImageFile, axis: int) -> Iterator[ImageFile]:
    """The slices of a volume, each an image; a picture as it is.

    Raises:
        UserError: the header of a volume cannot be read.
    """
    count = slices_in(image.path, axis)
    if count is None:
        yield image
    for number in range(count or 0):
        name, stem = (f"{each}/{number:04d}" for each in (image.name, image.stem))
        yield replace(image, name=name, stem=stem, case=image.stem, slice=number)


def file_stems(names: Sequence[str]) -> list[str]:
    """What the files of each image are called, below a folder of results and without their ending.

    An image's name without its ending where no other image has the same; else its whole name.

    >>> file_stems(["a.png", "b.png", "b.jpg", "../c/d.tif"])
    ['a', 'b.png', 'b.jpg', 'c/d']
    """
    inside = ["/".join(part for part in PurePosixPath(name).parts if part not in ("/", "..")) for name in names]
    short = [_without_ending(name) for name in inside]
    shared = Counter(map(_folded, short))
    taken: set[str] = set()
    stems = []
    for name, stem in zip(inside, short, strict=True):
        stem = stem if shared[_folded(stem)] == 1 else name
        while _folded(stem) in taken:
            stem += "~"
        taken.add(_folded(stem))
        stems.append(stem)
    return stems


def _without_ending(name: str) -> str:
    """A path without the ending of its last part."""
    return str(PurePosixPath(name).with_name(stem_of(Path(name))))


def _folded(name: str) -> str:
    """What names have in common that some file system takes for one."""
    return normal(name).casefold()


def _of_list(path: Path, stream_by: str | None) -> list[ImageFile]:
    """The rows of a CSV file, in order."""
    column = stream_by if stream_by not in (None, FOLDER) else None
    rows, faults = read_table(path, ("image", *([column] if column else [])))
    images = []
    for row in rows:
        entry = row.entries["image"]
        file = on_disk(path.parent, entry)
        stream = row.entries[column or FOLDER] if column or (stream_by and FOLDER in row.entries) else ""
        if not entry:
            faults.append(f"{row.where}: column 'image' is empty: fill it or remove the row")
        elif not os.path.isfile(file):
            faults.append(f"{row.where}: {file} does not exist: correct the path, relative to the list, or remove it")
        elif column and not stream:
            faults.append(f"{row.where}: column '{column}' is empty: fill it, it tells the stream")
        images.append(ImageFile(Path(entry).as_posix(), file, stream=stream))
    if faults:
        raise UserError(faults)
    return images


def _walk(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those below it that end as images do, without hidden ones and folders of masks.

    ``mask`` beside ``image`` is the layout of ``data=folder``: masks are never looked at, predicted ones neither.
    """
    seen: set[str] = set()  # links may make circles
    pending = [str(folder)]
    while pending:
        current = pending.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        names = [path.name for path in listed(Path(current))]
        for name in names:
            path = os.path.join(current, name)
            if os.path.isdir(path):
                if not (name == "mask" and "image" in names) and not holds_predictions(path):
                    pending.append(path)
            elif suffix_of(name):
                yield Path(path)


def _predicted(file: Path, root: Path) -> bool:
    """Whether a file below a folder is a prediction of its, rather than an image."""
    return any(holds_predictions(folder) for folder in file.parents if root in folder.parents)


def _named(root: Path, paths: Iterable[Path]) -> list[ImageFile]:
    """Files below a folder, sorted by their names without ending, folder by folder."""
    images = [ImageFile(path.relative_to(root).as_posix(), path) for path in paths]
    return sorted(images, key=lambda image: (PurePosixPath(image.name).with_suffix("").parts, image.name))


def _fixed(pattern: Path) -> Iterator[str]:
    """The parts of a pattern before the first that varies, the last part apart."""
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _ordered(images: Sequence[ImageFile], order: Path) -> list[ImageFile]:
    """The images in the order of a file that names each of them once."""
    try:
        names = [line for line in order.expanduser().read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"--order {order} cannot be read ({reason}): give a text file with a name per line") from None
    known = {normal(image.name): image for image in images}
    keys = [normal(name.strip() if normal(name) not in known else name) for name in names]
    counts = Counter(keys)
    faults = [f"--order {order}: {key} is no image here: {nearest(key, known)}" for key in counts if key not in known]
    faults += [f"--order {order}: {key} stands {n} times: name it once" for key, n in counts.items() if n > 1]
    faults += [f"--order {order} lacks {known[key].name}: name every image" for key in known if key not in counts]
    if faults:
        raise UserError(faults[:20] + [f"... and {len(faults) - 20} more of --order"] * (len(faults) > 20))
    return [known[key] for key in keys]
