"""``data=synthetic``: procedural fundus photographs, rendered when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tta_bench.data.readers.base import Reader, Record, Sample, register_reader, require_known
from tta_bench.data.synthetic.centres import CENTRES, VERSION
from tta_bench.schema import DataConfig

_BYTES_PER_RENDERED_PIXEL = 400  # the layers of a generated eye, in double precision


@dataclass(frozen=True)
class SyntheticRecord:
    """A generated fundus photograph."""

    centre: str  # name of the virtual centre
    index: int  # number of the image within it
    seed: int  # seed of the whole data set

    @property
    def name(self) -> str:
        """Such as ``A-0007``."""
        return f"{self.centre}-{self.index:04d}"

    @property
    def origin(self) -> str:
        """The generator and the image's name."""
        return f"synthetic {self.name}"

    @property
    def labelled(self) -> bool:
        """The generator knows what it draws."""
        return True

    def stamp(self) -> Sequence[str | int]:
        """Version of the generator and the seed."""
        return [VERSION, self.seed]

    def memory(self, size: int) -> int:
        """By the size at which it is rendered."""
        return _BYTES_PER_RENDERED_PIXEL * size * size

    def read(self, size: int) -> Sample:
        """Generate the pair at the asked-for size."""
        from tta_bench.data.synthetic.render import render  # SciPy, only where something is rendered

        image, mask = render(self.centre, self.index, seed=self.seed, size=size)
        return Sample(image, mask)


@register_reader("synthetic")
class SyntheticReader(Reader):
    """Procedural fundus photographs of virtual centres.

    Args:
        seed: of the generated images.
    """

    takes = ("seed",)

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @classmethod
    def from_config(cls, config: DataConfig) -> Self:
        """By ``data.seed``."""
        return cls(config.seed)

    def domain_names(self) -> tuple[str, ...]:
        """The virtual centres."""
        return tuple(CENTRES)

    def records(self, domain: str) -> Sequence[Record]:
        """All images of one centre.

        Raises:
            UserError: no such centre.
        """
        require_known(domain, self.domain_names(), "data=synthetic")
        return [SyntheticRecord(domain, index, self._seed) for index in range(CENTRES[domain].count)]
