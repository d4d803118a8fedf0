"""Maps of a larger size: one that is not laid out yet, as convolutions left it, and one of repeated pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Upsampled:
    """What a transposed convolution of kernel 2 and stride 2 makes, with further channels beside it.

    Attributes:
        quarters: ``[N, 4 * C, H, W]``: for each pixel all channels of the four that it becomes, row by row.
        beside: ``[N, others, 2H, 2W]``, which follow as further channels; None for none.
    """

    quarters: Tensor
    beside: Tensor | None = None

    @property
    def own(self) -> int:
        """Channels of the upsampled map alone."""
        return self.quarters.shape[1] // 4

    @property
    def shape(self) -> torch.Size:
        """``[N, C + others, 2H, 2W]``."""
        images, _, height, width = self.quarters.shape
        others = 0 if self.beside is None else self.beside.shape[1]
        return torch.Size((images, self.own + others, 2 * height, 2 * width))

    @property
    def device(self) -> torch.device:
        """Where both are."""
        return self.quarters.device

    @property
    def dtype(self) -> torch.dtype:
        """Of both."""
        return self.quarters.dtype

    def __len__(self) -> int:
        """Images."""
        return len(self.quarters)

    def laid_out(self) -> Tensor:
        """As a tensor of this :attr:`shape`, in the order in memory of what it is made of."""
        images, _, height, width = self.quarters.shape
        apart = self.quarters.view(images, 2, 2, self.own, height, width)
        # Of the axes image, row and column of a quarter, channel, row and column of a pixel.
        by_pixel = self.quarters.is_contiguous(memory_format=torch.channels_last)
        if by_pixel:
            made = apart.permute(0, 4, 1, 5, 2, 3).reshape(images, 2 * height, 2 * width, self.own).permute(0, 3, 1, 2)
        else:
            made = apart.permute(0, 3, 4, 1, 5, 2).reshape(images, self.own, 2 * height, 2 * width)
        return made if self.beside is None else torch.cat([made, self.beside], dim=1)


def repeated(x: Tensor, rows: int, columns: int) -> Tensor:
    """Maps whose every pixel is repeated: upsampling to the nearest pixel, with a gradient that is added in one order.

    A GPU's own kernel adds that gradient in the order in which its threads arrive. Where torch has to give the same
    bits every time, it gathers pixels by their indices instead, and adds the gradient index by index, which is slow.

    Args:
        x: ``[N, C, H, W]``.
        rows: how often each row is repeated.
        columns: how often each column is.

    Returns:
        ``[N, C, rows * H, columns * W]``, in the order in memory of ``x``.
    """
    images, channels, height, width = x.shape
    if x.is_contiguous(memory_format=torch.channels_last):
        apart = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, rows, -1, columns, -1)
        return apart.reshape(images, rows * height, columns * width, channels).permute(0, 3, 1, 2)
    apart = x[:, :, :, None, :, None].expand(-1, -1, -1, rows, -1, columns)
    return apart.reshape(images, channels, rows * height, columns * width)
