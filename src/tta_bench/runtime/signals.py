"""Ctrl-C and SIGTERM: one sentence, the exit code that shells and clusters expect, and time to tidy up.

A program calls :func:`install` first thing and does its work within :func:`handled`. A signal then raises
:class:`Stopped` wherever the main thread is, and what was begun is put in order as for any exception. A library that
swallows the exception or makes another one of it does not matter: :func:`check` and :func:`handled` remember the
signal. Importing this module changes nothing, so that used as a library the package leaves signals alone.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_PATIENCE = 10.0  # seconds to tidy up, in which further signals are ignored; one that comes later ends at once

_owner: int | None = None  # the process that installed the handlers; one forked from it inherits them
_received: signal.Signals | None = None
_since = 0.0
_at_stake = 0
_hand_on: Callable[[signal.Signals], object] | None = None


class Stopped(BaseException):
    """A signal asks the program to end; no ``Exception``, so that nobody takes it for a fault.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return self.signal.name


def exit_code(number: signal.Signals) -> int:
    """What a shell reports for a program that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


def install() -> None:
    """Take SIGINT and SIGTERM for this process, unless another library has; only a main thread can.

    Also where they were ignored, as a shell script makes its background jobs ignore SIGINT, or blocked, as Ray blocks
    it in its workers: whoever sends one wants the process to end.
    """
    global _owner
    sys.unraisablehook = _tell_unraisable
    for number in _WORDS:
        with suppress(ValueError):  # not the main thread
            if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
                signal.signal(number, _handle)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
                _owner = os.getpid()


@contextmanager
def handled() -> Iterator[None]:
    """Do the work of a program: a signal ends it with one sentence on standard error and its exit code.

    Signals that come afterwards are ignored: the exit code is settled.

    Raises:
        SystemExit: with 130 or 143 after a signal, also where the work has swallowed it.
    """
    stopped = None
    try:
        try:
            yield
        finally:
            if _owner == os.getpid():
                for number in _WORDS:
                    signal.signal(number, signal.SIG_IGN)
    except BaseException as error:
        stopped = stop_signal(error)
        if stopped is None:
            raise
    stopped = stopped or _received
    if stopped is not None:
        with suppress(OSError, ValueError):  # standard error may be closed
            print(_sentence(stopped), file=sys.stderr)
        sys.exit(exit_code(stopped))


@contextmanager
def at_stake() -> Iterator[None]:
    """Something would be left behind half done: a signal raises even in the middle of an import."""
    global _at_stake
    _at_stake += 1
    try:
        yield
    finally:
        _at_stake -= 1


@contextmanager
def handed_on(to: Callable[[signal.Signals], object]) -> Iterator[None]:
    """A signal is handed on before it raises: to processes that would not live through what the exception does.

    Args:
        to: called with the signal, in the main thread, wherever that is.
    """
    global _hand_on
    _hand_on = to
    try:
        yield
    finally:
        _hand_on = None


def check() -> None:
    """Stop now if a signal came whose exception got lost.

    Raises:
        Stopped: one came.
    """
    if _received is not None:
        raise Stopped(_received)


def stop_signal(error: BaseException) -> signal.Signals | None:
    """The signal because of which an exception ends the work; None for a fault."""
    if _received is not None:
        return _received
    if isinstance(error, Stopped):  # of another process
        return error.signal
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else None


def _handle(number: int, frame: FrameType | None) -> None:
    global _received, _since
    if os.getpid() != _owner:  # a forked worker: its parent decides
        return
    if _received is not None:
        if monotonic() - _since > _PATIENCE:
            _leave(_received)
        return
    _received, _since = signal.Signals(number), monotonic()
    if _hand_on is not None:
        _hand_on(_received)
    # The initialisation of a compiled module may end in a crash, an ImportError or nothing at all when it is raised in.
    if not _at_stake and _is_importing(frame):
        _leave(_received)
    raise Stopped(number)


def _tell_unraisable(lost: sys.UnraisableHookArgs) -> None:
    """What Python does with an exception that a destructor raised, but for ours: :func:`check` remembers the signal."""
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave(number: signal.Signals) -> None:
    """End the process here."""
    with suppress(Exception):  # the signal may have come while it was being written to
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, f"{_sentence(number)}\n".encode())
    os._exit(exit_code(number))


def _sentence(number: signal.Signals) -> str:
    return f"{_WORDS[number]}; what is finished is kept, the same command continues"
