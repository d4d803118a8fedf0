"""ODEx and its control: a pool of models, to which a stage adds one where its images are unlike all before, or always.

What a model does with the images of a stage is fine-tuning of all layers; which one is trained, and which one answers
an image, is decided in :mod:`tta_bench.offline.continual` (González et al., MICCAI 2022).
"""

from __future__ import annotations

from tta_bench.offline.base import SystemCard, register_system
from tta_bench.offline.fine_tuning import FineTuneAll


@register_system("odex")
class Odex(FineTuneAll):
    """The nearest model of the pool is trained on, or a copy of it where the stage is out of its distribution."""

    card = SystemCard(
        adapts="all weights and normalisation statistics of one model of a pool",
        needs=("target_labels",),
        paper="González et al., MICCAI 2022",
        licence="unknown",
    )
    grows = "far"
    of_stages = True


@register_system("always_new")
class AlwaysNew(FineTuneAll):
    """Every stage trains a copy of the nearest model of the pool."""

    card = SystemCard(
        adapts="all weights and normalisation statistics of a further model",
        needs=("target_labels",),
        paper="ablation of González et al., MICCAI 2022",
        licence="unknown",
    )
    grows = "always"
    of_stages = True
