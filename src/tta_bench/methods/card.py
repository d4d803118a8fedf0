"""The facts of a method, in plain values: `tta-bench list` reads them from its source file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Card:
    """The facts of a method, from which the overview table is made.

    Attributes:
        adapts: what changes when an image arrives.
        statistics: which statistics normalise.
        needs_source_statistics: whether the source model's running statistics are used.
        forwards: images that pass through the network per test image, prediction included.
        backwards: backward passes per test image.
        predictions: how many of the forwards the prediction takes.
        paper: author, venue, year.
        setting: what it may see: ``tta``, one unlabelled image at a time; ``tta+bank``, also a fixed bank made from
            source images, :class:`~tta_bench.models.bank.Bank`, which the others are not handed.
        licence: of the original code.
        stochastic: whether another seed gives other numbers with the default options; see
            :meth:`~tta_bench.methods.base.Method.is_stochastic`.
        branches: auxiliary branches of the source model that it needs with the default options; see
            :meth:`~tta_bench.methods.base.Method.branches`.
        needs_batch_norm: whether it has nothing to work on in a network without BatchNorm layers, because the
            statistics of other layers are always the image's own.
        features: feature maps of the network that it needs beside the logits, ``bottleneck`` or ``head_input`` of
            :class:`~tta_bench.models.segmentation.Activations`.
        needs_unit_range: whether, with the default options, it assumes that images lie in [0, 1], as when it changes
            their brightness or rebuilds them. Every method is shown such images; the network may expect others, see
            :class:`~tta_bench.ops.preprocessing.Preprocessing`.
        takes_batches: whether it takes several images of a stream at a time, ``[A, batch, 3, H, W]``.
        compares_pixels: whether it compares an image with past ones pixel by pixel, so that all must have one size.
        per_stream: options that streams side by side may each have of their own, see
            :class:`~tta_bench.methods.per_stream.PerStream`: cells that differ in these alone share a batch.
        reconstruction: what is ours in it, where its authors' code and text cannot be had; a mark on every row.
    """

    adapts: str
    statistics: str
    needs_source_statistics: bool
    forwards: int
    backwards: int
    paper: str
    licence: str
    setting: Literal["tta", "tta+bank"] = "tta"
    predictions: int = 1
    stochastic: bool = False
    branches: tuple[str, ...] = ()
    needs_batch_norm: bool = False
    needs_unit_range: bool = False
    takes_batches: bool = False
    compares_pixels: bool = False
    features: tuple[str, ...] = ()
    per_stream: tuple[str, ...] = ()
    reconstruction: str = ""

    @property
    def needs_gradients(self) -> bool:
        """Whether it runs backward passes."""
        return self.backwards > 0
