"""How images are adapted to, predicted and scored: the protocol section of the configuration, and what follows it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from tta_bench.runtime.ranges import Range, Seed
from tta_bench.runtime.sections import Section


def _as_evaluation(value: Any) -> Any:
    """``all`` is what there was before there was a choice."""
    return None if value == "all" else value


class ProtocolConfig(Section):
    """All that must be equal for two numbers to be compared (``conf/protocol``)."""

    name: str
    reset: str
    steps: Annotated[int, Range(1, 10**6)] = Field(description="updates per image")
    predict: Literal["after", "before"]
    order: Seed = Field(description="0: file order; k: the k-th random permutation of every target")
    threshold: Annotated[float, Range(0, 1, "()")]
    score_at: Literal["network", "stored"] = Field(
        description="size at which predictions are compared with the masks: the network's, or that of the files"
    )
    empty: Literal["one", "skip"] = Field(
        description="what a class scores that neither prediction nor truth has: the best value, or none"
    )
    evaluation: Annotated[Literal["held_out"] | None, BeforeValidator(_as_evaluation)] = Field(
        default=None, description="tested on: all images of a target, or the half that adapt may not use"
    )

    @model_serializer(mode="wrap")
    def _without_younger_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """These keys are younger than many results, whose identity is that of their defaults."""
        younger = (("score_at", "network"), ("empty", "one"), ("evaluation", None))
        return {key: value for key, value in dump(self).items() if (key, value) not in younger}


class PredictConfig(Section):
    """What becomes of predicted masks before anything is made of them."""

    nest: bool = Field(description="take away what lies outside the class around it, as a cup does outside the disc")
