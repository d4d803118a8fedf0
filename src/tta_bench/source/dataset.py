"""Augmented source images in an order and with draws that depend on (seed, epoch, image) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tta_bench.data.domain import Domain, class_channels
from tta_bench.ops.draws import seed_of
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.runtime.training_section import TrainingConfig
from tta_bench.source.augmentation import Augmentation


class SourceImages(Dataset[tuple[Tensor, Tensor]]):
    """The images of a domain, augmented; the item ``(epoch, index)`` is the same in every process.

    Of images that are cut into tiles an item is a square at a random place. There are as many in an epoch as there are
    tiles: ``index`` is the image's plus the number of the square times the number of images.

    Args:
        domain: images and masks.
        training: augmentation and seed.
        preprocessing: of the network.
    """

    def __init__(self, domain: Domain, training: TrainingConfig, preprocessing: Preprocessing = PAPER) -> None:
        self.domain = domain
        self.seed = training.seed
        self.preprocessing = preprocessing
        self.augmentation = Augmentation(training.augmentation, domain.side, training.legacy_unaligned_mask)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image float32 ``[3, size, size]`` in [0, 1] and label bool ``[classes, size, size]``."""
        epoch, index = item
        image, mask = self.augmentation(
            *self._square(epoch, index),
            seed=seed_of(self.seed, "augmentation", epoch, index),
        )
        scaled = self.preprocessing.unit_range(torch.from_numpy(image).permute(2, 0, 1).float())
        return scaled, class_channels(mask, self.domain.classes)

    def _square(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask values as the network sees them, before augmentation."""
        geometry, number = self.domain.geometry, index % len(self.domain)
        image, mask = self.domain.images[number], self.domain.mask(number)
        if geometry.fit != "tile":
            return image, mask
        top, left = np.random.default_rng(seed_of(self.seed, "crop", epoch, index)).random(2).tolist()
        return geometry.crop(image, (top, left)), geometry.crop(mask, (top, left))


class EpochOrder(Sampler[tuple[int, int]]):
    """A new permutation each epoch, as items ``(epoch, index)``; Lightning calls :meth:`set_epoch`.

    Args:
        indices: the images to draw from.
        seed: of the permutations.
    """

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        self.indices = indices
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Images per epoch."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The items of one epoch."""
        epoch = self.epoch
        order = np.random.default_rng(seed_of(self.seed, "order", epoch)).permutation(len(self.indices))
        return iter([(epoch, self.indices[position]) for position in order])


def training_batches(
    domain: Domain,
    indices: Sequence[int],
    training: TrainingConfig,
    *,
    workers: int,
    pin_memory: bool = False,
    preprocessing: Preprocessing = PAPER,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of augmented images; a last batch of one image is dropped, for batch normalisation needs two.

    Args:
        domain: images and masks.
        indices: the images to train on, at least two.
        training: batch size, seed and augmentation.
        workers: processes that augment; changes speed only.
        pin_memory: for copies to a GPU.
        preprocessing: of the network.
    """
    indices = [index + k * len(domain) for index in indices for k in range(domain.tiles(index))]
    return DataLoader(
        SourceImages(domain, training, preprocessing),
        batch_size=training.batch_size,
        sampler=EpochOrder(indices, training.seed),
        num_workers=workers,
        drop_last=len(indices) % training.batch_size == 1,
        pin_memory=pin_memory,
    )
