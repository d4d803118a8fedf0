"""alpha-BN: a fixed mixture of the source statistics and those of the test image (Schneider et al., NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, Method, MethodOptions, Protocol, register_method
from tta_bench.methods.space import Tuned
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import MixedStatistics
from tta_bench.ops.draws import Draws
from tta_bench.runtime.ranges import Fraction


@dataclass(frozen=True)
class AlphaBNOptions(MethodOptions):
    """Options of alpha-BN.

    Attributes:
        source_weight: in [0, 1]; 1 gives the source statistics, 0 those of the test image.
        unbiased: whether the variance of the test image is the unbiased one.
    """

    source_weight: Annotated[Fraction, Tuned(0, 1)]
    unbiased: bool


@register_method("alpha_bn")
class AlphaBN(Method):
    """Mean and variance between those of the source and those of the image: nothing persists between images."""

    card = Card(
        adapts="normalisation statistics",
        statistics="source domain and test image, mixed",
        needs_source_statistics=True,
        forwards=1,
        backwards=0,
        paper="Schneider et al., NeurIPS 2020; You et al., 2021",
        licence="Apache-2.0",
        needs_batch_norm=True,
        takes_batches=True,
    )
    Options = AlphaBNOptions

    def __init__(
        self, network: AdaptableNetwork, options: AlphaBNOptions | None = None, protocol: Protocol | None = None
    ) -> None:
        super().__init__(network, options, protocol)
        self.statistics = MixedStatistics(self.options.source_weight, self.options.unbiased)

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Nothing persists; the prediction's own forward pass computes the statistics."""
        return {}
