"""A feature map before the classifier, in any network: what its last normalisation layer but one gives.

In the ResUNet-34 this is the output of ``up4``, at half the resolution. The classifier's own input would say nothing of
an image: the gradient of a class by it is the classifier's weight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from tta_bench.errors import UserError
from tta_bench.models.normalisation_layer import NormalisationLayer
from tta_bench.models.wrapping import OwnStatisticsLayer, is_normalisation


class LateMap:
    """Where a pass leaves it."""

    def __init__(self) -> None:
        self.last: deque[Tensor] = deque(maxlen=2)

    def take(self) -> Tensor:
        """Of the pass that was made: ``[N, F, h, w]``; of a network with one such layer, what that one gives.

        Raises:
            UserError: no normalisation layer gives a map.
        """
        if not self.last:
            raise UserError(
                "class-specific features are taken from a normalisation layer with feature maps [N, C, H, W], and "
                "this network has none: choose another method or system, or another network"
            )
        return self.last[0]


@contextmanager
def late_map(model: nn.Module, through: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None) -> Iterator[LateMap]:
    """Within it, a pass through the network, wrapped or not, leaves its late map.

    Args:
        model: as it is.
        through: of what a layer gives, what is kept and what goes on, where they differ; what goes on is made of what
            is kept, so that gradients flow.
    """

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if output.dim() != 4:
            return None
        # A copy, because what follows may be computed in place.
        kept, on = through(output) if through is not None else (output, output.clone())
        found.last.append(kept)
        return on

    found = LateMap()
    inside = {layer.source for layer in model.modules() if isinstance(layer, OwnStatisticsLayer)}
    with ExitStack() as stack:
        for layer in model.modules():
            wrapped = isinstance(layer, NormalisationLayer | OwnStatisticsLayer)
            if wrapped or (is_normalisation(layer) and layer not in inside):
                stack.callback(layer.register_forward_hook(keep).remove)
        yield found
