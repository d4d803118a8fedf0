"""What a program finds in a fork is what it finds in a Python of its own."""

import signal
import subprocess
import sys

import pytest

import forked

PROGRAM = """
import logging, os, signal, sys, threading
print(os.getcwd(), sys.argv, __name__, os.environ["PATH"], os.environ["MINE"], "THEIRS" in os.environ)
print(*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)), os.getsid(0) == os.getpid())
print(threading.active_count(), logging.root.handlers, logging.root.level, sys.stdout.isatty(), sys.stdout.encoding)
print("said", file=sys.stderr)
"""


def as_in_a_terminal():
    """Tests that run in the background ignore signals, and so would what they start."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL), ("", 0)]
)
def test_a_fork_is_to_a_program_what_a_python_of_its_own_is(tmp_path, monkeypatch, end, code):
    monkeypatch.setenv("THEIRS", "of the test alone")
    environment = {"PATH": "/usr/bin", "MINE": "1", "LC_ALL": "C.UTF-8"}
    options = {"cwd": tmp_path, "env": environment, "timeout": 60, "start_new_session": True}
    command = ("-c", f"{PROGRAM}sys.stdout.flush()\n{end}", "word", "another")
    python = [sys.executable, *command]
    usual = subprocess.run(python, capture_output=True, text=True, preexec_fn=as_in_a_terminal, **options)
    ended = forked.run(*command, **options)
    assert (ended.returncode, ended.stdout, ended.stderr) == (usual.returncode, usual.stdout, usual.stderr)
    assert (ended.returncode, ended.stderr) == (code, "said\n")
