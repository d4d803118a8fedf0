"""The log of one cell."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tta_bench.runtime.files import translate_os_errors
from tta_bench.runtime.signals import stop_signal


class _QuietFileHandler(logging.FileHandler):
    """A full disk is reported by the results, not by every line of the log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lose the line."""


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Copy this package's log records to a file, and to it alone the traceback of a failure."""
    logger = logging.getLogger("tta_bench")
    with translate_os_errors(path.parent):
        handler = _QuietFileHandler(path, mode="w", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    level = logger.level
    if level == logging.NOTSET:  # called from Python, where nobody has asked for records yet
        logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        stopped = stop_signal(error)
        if stopped is not None:
            words, details = f"interrupted by {stopped.name}", None
        else:
            words, details = "failed", sys.exc_info()
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, words, (), details))
        raise
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        with suppress(OSError):  # what a full disk could not take
            handler.close()
