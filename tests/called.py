"""The code that runs, and the code that the digest of a cell reaches: each in definitions of the package."""

import sys
from pathlib import Path

import tta_bench
from tta_bench.adaptation import provenance
from tta_bench.adaptation.linking import Definition, Sources
from tta_bench.adaptation.provenance import ACCOMPANIES, code_of

PACKAGE = Path(tta_bench.__file__).parent


def ran(function):
    """Call it, and get what of the package was called: functions and classes at the top of their modules."""
    codes = {}

    def note(frame, event, _):  # of every call there is: what a code is comes afterwards, once
        if event == "call":
            codes[id(frame.f_code)] = frame.f_code

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    called = set()
    for code in codes.values():
        path = Path(code.co_filename)
        if path.is_relative_to(PACKAGE):
            module = ".".join(("tta_bench", *path.relative_to(PACKAGE).with_suffix("").parts))
            called.add(Definition(module, code.co_qualname.partition(".")[0]))
    return {each for each in called if each not in ACCOMPANIES and Definition(each.module) not in ACCOMPANIES}


def covered(config, monkeypatch, digest=code_of):
    """All names that the digest of a cell reaches, or another digest of a run."""
    reached = {}
    with monkeypatch.context() as patch:
        patch.setattr(Sources, "digests", lambda self, *of: reached.update(self.reach(*of)) or {})
        patch.setattr(provenance, "_reached", provenance._reached.__wrapped__)
        digest(config)
    return {Definition(module, name) for module, parts in reached.items() for part in parts for name in part.binds}
