"""Run a command of the package and strike it with real signals at given points of its work; see ``test_signals.py``.

Called as ``python struck.py STRIKES MODULE WORDS``: STRIKES is JSON, a list of ``[point, signal, whole_group]``, the
next of which is armed after the one before. A point is an audit event of Python with the end of its argument, such as
``import torch`` or ``os.rename summary.json``, or ``call MODULE:CLASS.FUNCTION``, which strikes from another thread
while the function runs.
"""

import json
import os
import runpy
import signal
import sys
import threading

strikes = json.loads(sys.argv[1])
sys.argv[1:] = sys.argv[2:]
process = os.getpid()


def strike():
    _, name, whole_group = strikes.pop(0)
    number = getattr(signal, name)
    if whole_group:
        os.killpg(process, number)
    else:
        os.kill(process, number)


def audit(event, arguments):
    if not strikes or os.getpid() != process:
        return
    wanted, _, what = strikes[0][0].partition(" ")
    if wanted == "call":
        wrap(what)
    elif event == wanted and str(arguments[0 if event != "os.rename" else 1]).endswith(what):
        strike()


def wrap(what):
    """Have the next call of a method struck, once its module is there."""
    module, _, path = what.partition(":")
    kind, _, name = path.partition(".")
    cls = getattr(sys.modules.get(module), kind, None)
    if cls is None:
        return
    function = getattr(cls, name)
    strikes[0][0] = "wrapped"

    def struck(*arguments):
        if strikes and strikes[0][0] == "wrapped" and os.getpid() == process:
            strikes[0][0] = "striking"
            threading.Timer(0.1, strike).start()
        return function(*arguments)

    setattr(cls, name, struck)


sys.addaudithook(audit)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
