"""What a reader is: the domains of a data set and their images, behind one small interface."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np

from tta_bench.data.files import is_text, printable
from tta_bench.errors import UserError, nearest
from tta_bench.registry import Registry
from tta_bench.runtime.files_section import FilesConfig
from tta_bench.schema import DataConfig


@dataclass(frozen=True)
class Sample:
    """One decoded image as it is stored, with its mask if it has one; ``data.fit`` says what becomes of them.

    Attributes:
        image: ``[height, width, 3]``, RGB in grey levels of 0 to 255: uint8, or float32 for fractions.
        mask: uint8 ``[height, width]``, mask values; None without a mask.
        spacing: millimetres from slice to slice, row to row and column to column; None where there is none.
    """

    image: np.ndarray
    mask: np.ndarray | None
    spacing: tuple[float, float, float] | None = None


class Record(Protocol):
    """One image with its mask, not yet decoded; a domain in which any image has no mask counts as one without masks."""

    @property
    def name(self) -> str:
        """Identifier of the image within its domain."""

    @property
    def origin(self) -> str:
        """Where the mask comes from, or would have to be, as messages call it."""

    @property
    def labelled(self) -> bool:
        """Whether there is a mask."""

    def stamp(self) -> Sequence[str | int]:
        """A cheap summary that changes when the content does."""

    def memory(self, size: int) -> int:
        """About how many bytes :meth:`read` takes."""

    def read(self, size: int) -> Sample:
        """Decode and check; what is drawn and not stored is drawn at this size.

        Args:
            size: side of the network's square, pixels.

        Raises:
            UserError: with every fault of image and mask.
        """


def case_of(record: Record) -> tuple[str, int] | None:
    """The name of the volume that an image is a slice of, and its number there, from 0; None where it is no slice.

    A record that has slices says so by its attributes ``case`` and ``slice``.
    """
    case, number = getattr(record, "case", None), getattr(record, "slice", None)
    return None if case is None or number is None else (case, number)


class Reader(ABC):
    """A data set: domains and their records."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Keys of the data section that have to be set: ``root``, ``domains``."""

    decodes_shades: ClassVar[bool] = False
    """Whether its masks are grey pictures, so that ``data.shades`` means something."""

    takes: ClassVar[tuple[str, ...]] = ()
    """Further ones that mean something for it: ``root``, ``domains``, ``seed`` and those of
    :class:`~tta_bench.runtime.files_section.FilesConfig`."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: DataConfig) -> Self:
        """The reader of a data section in which all is set that it :attr:`needs`.

        Raises:
            UserError: the data set is not where the section says.
        """

    @abstractmethod
    def domain_names(self) -> tuple[str, ...]:
        """The domains that can be read, in a fixed order; looks at folders and lists only.

        Raises:
            UserError: there is none.
        """

    @abstractmethod
    def records(self, domain: str) -> Sequence[Record]:
        """The images of one domain in stream order; decodes nothing.

        Raises:
            UserError: with every fault of the domain's listing.
        """

    def mask_hint(self, domain: str) -> str:
        """The keys with which masks of a domain would be found that has none; empty where nothing tells them."""
        return ""


READERS: Registry[type[Reader]] = Registry("reader", "tta_bench.data.readers")

register_reader = READERS.register
"""Class decorator: make a reader of data sets available by name, ``@register_reader("folder")``.

Raises:
    ValueError: the name is taken.
"""
"""Class decorator: make a reader available as ``data.name``, which its YAML in ``conf/data`` sets."""


def section_faults(config: DataConfig) -> list[str]:
    """What keeps the reader ``data.name`` from using its section; looks at no file of the data set."""
    try:
        reader = READERS.get(config.name)
    except UserError as error:
        return [f"data.name={config.name}: {error.faults[0]}", *error.faults[1:]]
    remedies = {
        "root": "the folder of the images: add data.root=DIR",
        "domains": "data.domains: map each domain name to its file prefix, {B: REFUGE}",
    }
    faults = [f"data={config.name} needs {remedies[key]}" for key in reader.needs if not getattr(config, key)]
    if config.shades is not None and not reader.decodes_shades:
        faults.append(f"data.shades is for data=fundus: data={config.name} has data.classes instead")
    given = [key for key in ("root", "domains", *FilesConfig.model_fields) if getattr(config, key) is not None]
    given += ["seed"] * (config.seed != 0)  # what it is where nobody gives it
    for key in (key for key in given if key not in (*reader.needs, *reader.takes)):
        other = {"domains": "fundus", "seed": "synthetic"}.get(key, "folder")
        faults.append(f"data.{key} is not for data={config.name}: leave it out, or use data={other}")
    return faults


def open_reader(config: DataConfig) -> Reader:
    """The reader that ``data.name`` asks for.

    Raises:
        UserError: the section lacks something, or the data set is not where it says.
    """
    if faults := section_faults(config):
        raise UserError(faults)
    return READERS.get(config.name).from_config(config)


def available_domains(config: DataConfig) -> tuple[str, ...]:
    """The domains that the data set has on disk, in its own order.

    Raises:
        UserError: as :func:`open_reader`, or there is none.
    """
    return open_reader(config).domain_names()


def existing_root(config: DataConfig) -> Path:
    """``data.root``, which is a folder.

    Raises:
        UserError: it is none.
    """
    assert config.root is not None  # one of what the reader needs
    root = config.root.expanduser()
    if not is_text(str(root)):
        raise UserError(f"data.root={printable(root)} is not UTF-8: rename that folder")
    # Unlike the methods of Path, os.path reports folders that may not be entered as absent.
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"data.root={config.root} {what}: give the folder of the images")
    return root


def require_known(domain: str, names: Sequence[str], place: str) -> None:
    """Refuse a domain that is not there.

    Args:
        domain: asked for.
        names: those that are there.
        place: where, as the message calls it.

    Raises:
        UserError: with the nearest name.
    """
    if domain not in names:
        raise UserError(f"unknown domain '{domain}' of {place}: {nearest(domain, names)}")
