"""Importing what a process needs until its end, PyTorch above all, at little cost."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def for_good() -> Iterator[None]:
    """Import without the garbage collector, which passes by what is there then.

    PyTorch brings a million objects that stay, and every full collection would look through all of them: several times
    during the import, and again and again afterwards. Where PyTorch is there already, nothing is changed.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
