"""The part of the protocol that a method obeys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """How a method is driven; see ``conf/protocol``.

    Attributes:
        episodic: whether the state starts afresh at every image, not only with a stream.
        steps: updates per image.
        predict: whether the image is predicted after or before its update.
    """

    episodic: bool = False
    steps: int = 1
    predict: Literal["after", "before"] = "after"
