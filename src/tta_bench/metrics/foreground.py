"""How much of the image is predicted to be of a class, whatever is true."""

from __future__ import annotations

from torch import Tensor

from tta_bench.metrics.base import pixels, register_metric


@register_metric("foreground", "%", direction="none", range=(0, 100), title="foreground")
def foreground_fraction(prediction: Tensor, truth: Tensor) -> float:
    """Predicted fraction of the image in percent: ``100 |P| / pixels``; tells a prediction that collapses."""
    return 100 * pixels(prediction) / prediction.numel()
