"""No adaptation: the source model as it is."""

from __future__ import annotations

from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, Method, register_method
from tta_bench.models.normalisation import SourceStatistics
from tta_bench.ops.draws import Draws


@register_method("no_adapt")
class NoAdapt(Method):
    """Predict with the source model's own statistics and affine parameters."""

    card = Card(
        adapts="nothing",
        statistics="source domain",
        needs_source_statistics=True,
        forwards=1,
        backwards=0,
        paper="baseline",
        licence="-",
        takes_batches=True,
    )
    statistics = SourceStatistics()

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Nothing changes."""
        return {}
