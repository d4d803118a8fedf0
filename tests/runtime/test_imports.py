"""What is imported for good: the garbage collector rests meanwhile, and passes by what is there then."""

import gc
import sys

from tta_bench.runtime.imports import for_good


def test_the_collector_rests_during_the_import_and_passes_by_what_is_there_then(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    try:
        with for_good():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_nothing_is_changed_where_pytorch_is_there_already(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with for_good():
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0
