"""What a search maximises: the mean Dice of a method on the pseudo-targets, by the protocol of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from tta_bench.adaptation.lockstep import lockstep_width
from tta_bench.adaptation.progress import progress_bar
from tta_bench.adaptation.runner import adapt_streams
from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.adaptation.scoring import Scoring
from tta_bench.adaptation.setup import method_of
from tta_bench.data.domain import Domain
from tta_bench.data.streams import LockstepGroups, passes
from tta_bench.methods.base import MethodOptions
from tta_bench.methods.step_result import StepResult
from tta_bench.metrics.base import PRIMARY
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.masks import Finish
from tta_bench.records.scores import image_scores, overall_scores, target_scores
from tta_bench.schema import RunConfig


class _Finite(pl.Callback):
    """Whether all logits were finite."""

    finite = True

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: StepResult, *others: Any
    ) -> None:
        """Look at the logits of a batch."""
        self.finite = self.finite and bool(outputs.logits.isfinite().all())


def dice_on(
    targets: Mapping[str, Domain],
    config: RunConfig,
    options: MethodOptions,
    network: AdaptableNetwork,
    title: str,
) -> tuple[dict[str, float], str]:
    """Adapt to every pseudo-target, as a run adapts to its targets, and score it with the labels of the source.

    Args:
        targets: the pseudo-targets.
        config: of a run: its method's name, protocol, seed of the search.
        options: of the method.
        network: of the source model, on the device; left as it is.
        title: of the progress bar.

    Returns:
        Pseudo-target -> Dice in percent, mean over images and classes; and why these options are of no use, as a
        clause, empty where they are.
    """
    assert config.search is not None
    protocol, scenario = config.protocol, scenario_of(config.protocol.reset)
    method = method_of(config, network, options)
    groups = LockstepGroups(scenario.streams(passes(targets, tuple(targets), protocol.order)), batch=scenario.batch)
    groups.width = lockstep_width(config, method, targets, groups)
    finish = Finish(network.activation, protocol.threshold)
    scoring, finite = Scoring(targets, finish, [PRIMARY], empty=protocol.empty), _Finite()
    with progress_bar(title, sum(map(len, groups.streams)), scoring.records) as progress:
        observers = [scoring, finite, progress]
        adapt_streams(method, targets, groups, seeds=[config.search.seed], observers=observers)
    classes = tuple(next(iter(targets.values())).classes)
    dice = {}
    for name in targets:
        rows = [image_scores(record.scores, classes) for record in scoring.records if record.place.domain == name]
        dice[name] = target_scores(rows, [PRIMARY], classes)[PRIMARY]
    if method.skipped:
        return dice, f"{method.skipped} losses or gradients were not finite"
    return dice, "" if finite.finite and all(map(math.isfinite, dice.values())) else "logits were not finite"


def mean_of(dice: Mapping[str, float]) -> float:
    """The number that is maximised: the unweighted mean over the pseudo-targets."""
    return overall_scores({name: {PRIMARY: value} for name, value in dice.items()}, [PRIMARY])[PRIMARY]
