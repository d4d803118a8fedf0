"""What methods with a pseudo and an auxiliary objective share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from tta_bench.methods.base import Diagnostics, GradientMethod, GradientOptions, MethodOptions
from tta_bench.objectives.base import OBJECTIVES, bind_objective, branches_of, draws_at_random, options_taken
from tta_bench.objectives.entropy import EntropyForm
from tta_bench.ops.draws import Draws
from tta_bench.ops.gradients import gradient_cosine
from tta_bench.ops.views import StrongAugmentation
from tta_bench.runtime.ranges import NonNegative, Range

OF_OBJECTIVES = ("entropy_form", "noise_std", "super_resolution_factor", "strong_augmentation")
"""The options that are those of objectives."""


@dataclass(frozen=True)
class TwoObjectivesOptions(GradientOptions):
    """Options of methods with two objectives.

    Attributes:
        pseudo: the objective that is minimised.
        auxiliary: the objective it is brought into agreement with.
        entropy_form: see :func:`tta_bench.objectives.entropy.entropy`.
        noise_std: see :func:`tta_bench.objectives.denoising.denoising`.
        super_resolution_factor: see :func:`tta_bench.objectives.super_resolution.shrink`.
        strong_augmentation: operations of the strong view.
    """

    pseudo: str
    auxiliary: str
    entropy_form: EntropyForm
    noise_std: NonNegative
    super_resolution_factor: Annotated[int, Range(2, 4)]
    strong_augmentation: StrongAugmentation

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (self.pseudo, self.auxiliary):
            OBJECTIVES.get(name)
        if self.pseudo == self.auxiliary:
            raise ValueError(f"pseudo and auxiliary are both '{self.pseudo}': a gradient is aligned with another one")
        if self.super_resolution_factor not in (2, 4):
            raise ValueError(f"super_resolution_factor={self.super_resolution_factor} must be 2 or 4")

    def without_effect(self) -> frozenset[str]:
        """Those of the base class, and what neither of the two objectives takes."""
        taken = options_taken((self.pseudo, self.auxiliary), OF_OBJECTIVES)
        return super().without_effect() | ({*OF_OBJECTIVES} - taken)


class TwoObjectivesMethod(GradientMethod):
    """Base of methods with two objectives."""

    Options: ClassVar[type[MethodOptions]] = TwoObjectivesOptions

    @classmethod
    def branches(cls, options: TwoObjectivesOptions) -> tuple[str, ...]:
        """Those of the two objectives."""
        return branches_of((options.pseudo, options.auxiliary))

    @classmethod
    def is_stochastic(cls, options: TwoObjectivesOptions) -> bool:
        """Whether one of the two objectives is."""
        return any(draws_at_random(name, **vars(options)) for name in (options.pseudo, options.auxiliary))

    def objective_gradient(self, name: str, images: Tensor, draws: Draws, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Losses ``[A]`` of the objective called ``name`` and their gradients ``[A, scalars]`` at ``theta``."""
        objective = bind_objective(name, **{key: getattr(self.options, key) for key in OF_OBJECTIVES})
        return self.gradient(lambda network: objective(network, images, draws), theta)


class CombinedGradientsMethod(TwoObjectivesMethod):
    """Base of methods that combine both gradients, taken at the same state, into the one that is followed."""

    @abstractmethod
    def combine(self, pseudo: Tensor, auxiliary: Tensor) -> Tensor:
        """The gradient to follow, ``[A, scalars]``, from the two of the objectives."""

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Both gradients at the same state, combined; one step."""
        theta = self.theta(len(images))
        auxiliary_loss, auxiliary = self.objective_gradient(self.options.auxiliary, images, draws, theta)
        pseudo_loss, pseudo = self.objective_gradient(self.options.pseudo, images, draws, theta)
        rate = self.each("learning_rate", pseudo_loss)
        skipped = self.state.step(self.combine(pseudo, auxiliary), rate, auxiliary_loss + pseudo_loss)
        return {
            "loss_auxiliary": auxiliary_loss,
            "loss_pseudo": pseudo_loss,
            "cosine": gradient_cosine(auxiliary, pseudo),
            "lr": rate,
            "skipped": skipped,
        }
