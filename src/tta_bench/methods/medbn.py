"""MedBN: the median in place of the mean (Park et al., CVPR 2024)."""

from __future__ import annotations

from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, Method, register_method
from tta_bench.models.normalisation import MedianStatistics
from tta_bench.ops.draws import Draws


@register_method("medbn")
class MedBN(Method):
    """Every layer centres on the channel's median over the test image: nothing persists between images."""

    card = Card(
        adapts="normalisation statistics",
        statistics="test image, median",
        needs_source_statistics=False,
        forwards=1,
        backwards=0,
        paper="Park et al., CVPR 2024",
        licence="none stated",
        needs_batch_norm=True,
        takes_batches=True,
    )
    statistics = MedianStatistics()

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Nothing persists; the prediction's own forward pass computes the statistics."""
        return {}
