"""tta_bench: a workbench for test-time adaptation of medical image segmentation.

What users import stands here, and comes from the rooms of the package when it is asked for: importing ``tta_bench``
costs nothing. All else is internal.
"""

from pkgutil import resolve_name
from typing import Any

_PLACES = {
    "Adapter": "tta_bench.adapter:Adapter",
    "TTACallback": "tta_bench.adaptation.callback:TTACallback",
    "list_methods": "tta_bench.methods.base:list_methods",
    "register_method": "tta_bench.methods.base:register_method",
    "register_metric": "tta_bench.metrics.base:register_metric",
    "register_network": "tta_bench.models.segmentation:register_network",
    "register_objective": "tta_bench.objectives.base:register_objective",
    "register_pretext_task": "tta_bench.objectives.base:register_pretext_task",
    "register_reader": "tta_bench.data.readers.base:register_reader",
    "register_scenario": "tta_bench.adaptation.scenarios.base:register_scenario",
    "register_sink": "tta_bench.sinks.base:register_sink",
}
__all__ = ["__version__", *_PLACES]

__version__: str


def __getattr__(name: str) -> Any:
    """A name of the package's face."""
    if name in _PLACES:
        return resolve_name(_PLACES[name])
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tta-bench")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+uninstalled"
