"""Statistics of the test image, no gradient: the control of every method that fine-tunes."""

from __future__ import annotations

from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, Method, register_method
from tta_bench.models.normalisation import BatchStatistics
from tta_bench.ops.draws import Draws


@register_method("bn_only")
class BatchNormOnly(Method):
    """Prediction-time batch normalisation (Nado et al. 2020) at one image: nothing persists between images."""

    card = Card(
        adapts="normalisation statistics",
        statistics="test image",
        needs_source_statistics=False,
        forwards=1,
        backwards=0,
        paper="Nado et al., arXiv 2020",
        licence="Apache-2.0",
        needs_batch_norm=True,
        takes_batches=True,
    )
    statistics = BatchStatistics()

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Nothing persists; the prediction's own forward pass computes the statistics."""
        return {}
