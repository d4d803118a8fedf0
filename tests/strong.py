"""Strong views of images whose generators are at hand, for tests that draw by themselves."""

from tta_bench.ops.preprocessing import min_max
from tta_bench.ops.views import strong_draws, strong_views


def drawn_views(images, generators, settings, back_in_range=min_max):
    """Drawn and applied; arguments as of the two functions."""
    return strong_views(images, *strong_draws(images, generators, settings), settings, back_in_range)
