"""A domain: the images of one centre with their masks, decoded and brought to the network's size once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tta_bench.data.ragged import Ragged
from tta_bench.errors import UserError
from tta_bench.ops.geometry import Geometry, ScoreAt
from tta_bench.ops.preprocessing import PAPER, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

_SQUARE = Geometry(0)


@dataclass(frozen=True)
class Domain:
    """The prepared images of one centre.

    Attributes:
        name: the domain's name, as in ``source=`` and ``target=``.
        image_names: one identifier per image, in stream order.
        images: ``[n, size, size, 3]``, RGB in grey levels of 0 to 255; usually memory-mapped. uint8, or float32 where
            any image has levels that are no whole numbers. Cut into tiles, they are kept as stored.
        masks: uint8 ``[n, size, size]``, the mask values of the files (``classes`` gives them meaning); None without;
            kept as stored where the images are.
        classes: class name -> mask values that belong to it; classes may nest (disc and cup).
        fingerprint: hash of all of the above, so that results can tell when the data changed.
        geometry: between the images as stored and the network's input; default: they are its square.
        sizes: height and width of each image as stored, pixels; default: those of ``images``.
        truths: the masks as stored, where ``masks`` are not; None where none are kept.
        score_at: size at which predictions are compared with the truth.
        cases: of each image the name of its volume and its number there, from 0; None where images are no slices.
        spacings: of each image as stored, millimetres from slice to slice, row to row and column to column; None where
            files have none.
    """

    name: str
    image_names: tuple[str, ...]
    images: np.ndarray | Ragged
    masks: np.ndarray | Ragged | None
    classes: Mapping[str, tuple[int, ...]]
    fingerprint: str
    geometry: Geometry = _SQUARE
    sizes: tuple[tuple[int, int], ...] = ()
    truths: Ragged | None = None
    score_at: ScoreAt = "network"
    cases: tuple[tuple[str, int], ...] | None = None
    spacings: tuple[tuple[float, float, float] | None, ...] | None = None

    def __post_init__(self) -> None:
        if self.geometry is _SQUARE and isinstance(self.images, np.ndarray):
            object.__setattr__(self, "geometry", Geometry(self.images.shape[1]))
            object.__setattr__(self, "sizes", ((self.geometry.side, self.geometry.side),) * len(self.image_names))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_names)

    @property
    def side(self) -> int:
        """Of the network's square, pixels."""
        return self.geometry.side

    def tiles(self, index: int) -> int:
        """Into how many an image is cut; 1 where none are."""
        return len(self.geometry.corners(*self.sizes[index]))

    def image(self, index: int, preprocessing: Preprocessing = PAPER) -> Tensor:
        """What a source model of this preprocessing is shown: float32 ``[channels, size, size]`` in [0, 1].

        Of an image that is cut, its tiles one below the other: ``[channels, tiles * size, size]``.
        """
        image = preprocessing.unit_range(self.levels(index))
        if self.geometry.fit != "tile":
            return image
        return _tensor(self.geometry.pieces(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)

    def levels(self, index: int) -> Tensor:
        """The grey levels that are kept of an image: float32 ``[3, h, w]``, 0 to 255."""
        return _tensor(np.array(self.images[index], np.float32)).permute(2, 0, 1)

    def unlabelled(self) -> Self:
        """The domain without any of its masks."""
        return replace(self, masks=None, truths=None)

    def chosen(self, indices: Sequence[int]) -> Self:
        """Some of the images, in this order, as a domain of the same name and fingerprint."""
        parts = {name: getattr(self, name) for name in ("images", "masks", "truths", "image_names", "sizes")}
        parts |= {"cases": self.cases, "spacings": self.spacings}
        return replace(self, **{name: _chosen(values, indices) for name, values in parts.items()})

    def picture(self, index: int) -> NDArray[np.uint8]:
        """The image for people, uint8 ``[h, w, 3]``: as it is kept, without padding, and not cut."""
        image = np.array(self.images[index]).round().astype(np.uint8)
        return image if self.geometry.fit == "tile" else image[self.geometry.place(*self.sizes[index])]

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask values of an image: uint8 ``[size, size]``; as stored where it is kept so.

        Raises:
            UserError: the domain has no masks.
        """
        if self.masks is None:
            raise UserError(
                f"domain '{self.name}' has no masks, and training, scores and pictures of annotations need them: "
                "add them, or choose another domain"
            )
        return np.array(self.masks[index])

    def label(self, index: int) -> Tensor:
        """What the network's output for :meth:`image` is to be: bool ``[classes, H, W]`` of its height and width.

        Raises:
            UserError: the domain has no masks.
        """
        return class_channels(self.geometry.pieces(self.mask(index)), self.classes)

    def truth(self, index: int) -> Tensor:
        """What a prediction is compared with: bool ``[classes, h, w]``, the stored mask or that at network size.

        Raises:
            UserError: the domain has no masks.
        """
        if self.score_at == "stored" and self.truths is not None:
            values = self.truths[index]
        else:
            values = self.mask(index)
            values = values if self.geometry.fit == "tile" else values[self.geometry.place(*self.sizes[index])]
        return class_channels(values, self.classes)

    def restored(self, logits: Tensor, index: int) -> Tensor:
        """Logits ``[channels, h, w]`` at the size of :meth:`truth`, from those of :meth:`image`."""
        return self.geometry.restored(logits, *self.sizes[index], self.score_at)

    @property
    def spaced(self) -> bool:
        """Whether the files of all images tell the distances of their pixels."""
        return self.spacings is not None and None not in self.spacings

    def spacing(self, index: int) -> tuple[float, float, float] | None:
        """Millimetres from slice to slice, row to row and column to column of :meth:`truth`, where the files tell."""
        found = None if self.spacings is None else self.spacings[index]
        if found is None:
            return None
        stored = self.sizes[index]
        (height, width), (rows, columns) = stored, self.geometry.size(*stored, self.score_at)
        return found[0], found[1] * height / rows, found[2] * width / columns

    @property
    def prediction_shapes(self) -> list[tuple[int, int, int]]:
        """``(classes, h, w)`` of the prediction of each image."""
        return [(len(self.classes), *self.geometry.size(*size, self.score_at)) for size in self.sizes]


def network_inputs(images: Sequence[tuple[Domain, int]], preprocessing: Preprocessing = PAPER) -> Tensor:
    """:meth:`Domain.image` of several of one size, ``[n, channels, h, w]``, to the same bits.

    They are scaled together: where threads read beside a GPU's work, every call into NumPy or PyTorch hands Python's
    lock on and asks for it again, and the thread that gives the GPU its work waits for it.

    Args:
        images: domains, and places of images in them.
        preprocessing: of the source model.
    """
    import torch

    if preprocessing.channels == 1 or any(domain.geometry.fit == "tile" for domain, _ in images):
        return torch.stack([domain.image(index, preprocessing) for domain, index in images])
    return preprocessing.unit_range(torch.stack([domain.levels(index) for domain, index in images]))


def _tensor(array: NDArray[Any]) -> Tensor:
    """The same memory as a tensor. Torch takes seconds to import, and who looks at files alone does without."""
    import torch

    return torch.from_numpy(array)


def _chosen(values: Any, indices: Sequence[int]) -> Any:
    """Some of a sequence of any kind; nothing where there is none."""
    if values is None:
        return None
    if isinstance(values, Ragged):
        return values.chosen(indices)
    return values[[*indices]] if isinstance(values, np.ndarray) else tuple(values[index] for index in indices)


def class_channels(mask: NDArray[Any], classes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Bool ``[..., classes, H, W]`` from integer mask values ``[..., H, W]``."""
    given = np.asarray(mask)  # of a file that is mapped, a plain view
    channels = np.empty((*given.shape[:-2], len(classes), *given.shape[-2:]), bool)
    for number, (first, *others) in enumerate(classes.values()):
        channel = channels[..., number, :, :]
        np.equal(given, first, out=channel)  # a comparison per value is many times as fast as isin
        for value in others:
            channel |= given == value
    return _tensor(channels)
