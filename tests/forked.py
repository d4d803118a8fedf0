"""Python programs in processes of their own that need not start Python and import torch: forks of one that has.

That one is forked from pytest when all tests are collected and none has run. A program has what a shell would give it:
number, parent other than the test, folder, environment, standard streams, and what Python does about signals. What
Python does with its environment at its start, and what is imported and when, is to be looked at without this.
"""

import faulthandler
import logging
import multiprocessing
import os
import pickle
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_requests: list[socket.socket] = []
"""To the process that forks; empty before there is one."""


def prepare():
    """Fork the process that the programs are forked from; it ends with this one. Elsewhere than on Linux do nothing."""
    if sys.platform != "linux":
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        try:
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    _requests.append(ours)


def run(*command, cwd=None, env=None, timeout=300, start_new_session=False):
    """What ``subprocess.run([sys.executable, *command], capture_output=True, text=True, ...)`` returns.

    Args:
        command: ``-c CODE``, ``-m MODULE`` or the path of a script, and its words.
    """
    if not _requests:
        how = {"cwd": cwd, "env": env, "timeout": timeout, "start_new_session": start_new_session}
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, **how)
    pipes = [os.pipe() for _ in range(2)]
    request = {
        "command": list(map(str, command)),
        "folder": str(cwd or Path.cwd()),
        "environment": dict(os.environ if env is None else env),
        "address_space": resource.getrlimit(resource.RLIMIT_AS),
        "new_session": start_new_session,
    }
    socket.send_fds(_requests[0], [pickle.dumps(request)], [end for _, end in pipes])
    for _, end in pipes:
        os.close(end)
    process = int(_requests[0].recv(64))
    with ThreadPoolExecutor(2) as pool:
        texts = [pool.submit(_text, end) for end, _ in pipes]
        try:
            out, error = (text.result(timeout) for text in texts)
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            raise
        finally:
            code = int(_requests[0].recv(64))
    return subprocess.CompletedProcess(command, code, out, error)


def _text(end):
    with open(end) as stream:
        return stream.read()


def _serve(requests):
    """Fork one program after the other, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()
    logging.root.handlers.clear()
    threading.excepthook, sys.unraisablehook = threading.__excepthook__, sys.__unraisablehook__
    while True:
        message, streams, *_ = socket.recv_fds(requests, 2**20, 2)
        if not message:
            return
        process = multiprocessing.get_context("fork").Process(target=_become, args=(streams, pickle.loads(message)))
        process.start()
        for stream in streams:
            os.close(stream)
        requests.send(b"%d" % process.pid)
        process.join()
        requests.send(b"%d" % process.exitcode)


def _become(streams, asked):
    """Be the program."""
    if asked["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    resource.setrlimit(resource.RLIMIT_AS, asked["address_space"])
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    for name in [name for name in sys.modules if name.endswith(".__main__")]:
        del sys.modules[name]
    kind, *words = asked["command"]
    sys.path.insert(0, "")
    if kind == "-m":
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *words[1:]]
        exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *words]
        runpy.run_path(kind, run_name="__main__")
