"""tta_bench: a workbench for test-time adaptation of medical image segmentation."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tta-bench")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+uninstalled"
