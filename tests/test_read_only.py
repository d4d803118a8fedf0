"""Finished results in a place that may only be read: they are shown, and what would write is refused by a sentence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import forked
from tiny_cells import TINY, configure, execute

USUAL = "model.encoder=resnet18"  # others only the library knows, whose import takes seconds
WORDS = [USUAL if word.startswith("model.encoder=") else word for word in TINY]

# The superuser may write everywhere, unless that right is taken away.
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override")

pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs a user without the rights of root, or setpriv"
)


def in_shell(*words):
    prefix = WITHOUT_RIGHTS if os.geteuid() == 0 else ()
    return subprocess.run(
        [*prefix, sys.executable, "-m", *words],
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )


HERE = """
import ctypes, runpy, sys
header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc = ctypes.CDLL(None)
libc.capget(header, rights)
rights[0] &= ~0b110  # the two of above, of those in effect
assert libc.capset(header, rights) == 0
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results folder of one finished cell and its reference, read-only."""
    root = tmp_path_factory.mktemp("results")
    execute(configure(root, "+method=bn_only", USUAL))
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    yield root
    for folder in folders:
        folder.chmod(0o700)


def test_a_finished_cell_is_shown(results):
    shown = in_shell("tta_bench", "+method=bn_only", *WORDS, f"results_root={results}")
    assert shown.returncode == 0, shown.stderr
    assert "bn_only" in shown.stdout
    assert not shown.stderr


def test_what_would_have_to_be_written_is_refused(results):
    refused = forked.run("-c", HERE, "tta_bench", "+method=tent", *WORDS, f"results_root={results}")
    assert refused.returncode == 2
    assert "no permission to write there" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_report_is_written_elsewhere(results, tmp_path):
    words = ("first_look", *WORDS, f"results_root={results}")
    written = in_shell("tta_bench.cli", "report", *words, "--out", str(tmp_path / "report"))
    assert written.returncode == 0, written.stderr
    assert Path(tmp_path / "report" / "table.md").is_file()
    refused = in_shell("tta_bench.cli", "report", *words)
    assert refused.returncode == 2
    assert "no permission to write there" in refused.stderr
