"""GSMorph's layer-wise gradient surgery, applied to test-time adaptation (Dou et al., MICCAI 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from tta_bench.methods.base import Card, register_method
from tta_bench.methods.space import Tuned
from tta_bench.methods.two_objectives import CombinedGradientsMethod, TwoObjectivesOptions
from tta_bench.ops.gradients import project_conflicts


@dataclass(frozen=True)
class GSMorphOptions(TwoObjectivesOptions):
    """Options of the layer-wise surgery.

    Attributes:
        group_by: conflicts are judged per affine tensor, per normalisation layer, or over the whole network.
    """

    group_by: Annotated[Literal["tensor", "module", "network"], Tuned()]


@register_method("gsmorph")
class GSMorph(CombinedGradientsMethod):
    """The pseudo gradient, layer by layer without what opposes the auxiliary one, which is never added."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=9,
        backwards=2,
        paper="Dou et al., MICCAI 2023",
        licence="none stated",
        stochastic=True,
        needs_unit_range=True,
        per_stream=("learning_rate",),
    )
    Options = GSMorphOptions

    def combine(self, pseudo: Tensor, auxiliary: Tensor) -> Tensor:
        """The pseudo gradient, projected group by group."""
        slices = self.network.tensor_slices()
        in_group = {"tensor": 1, "module": 2, "network": len(slices)}[self.options.group_by]
        sizes = [
            last.stop - first.start
            for first, last in zip(slices[::in_group], slices[in_group - 1 :: in_group], strict=True)
        ]
        return project_conflicts(pseudo, auxiliary, sizes)
