"""tta_bench: a workbench for test-time adaptation of medical image segmentation."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """``__version__``, looked up when it is asked for: nothing else takes as long before signals are handled."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tta-bench")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+uninstalled"
