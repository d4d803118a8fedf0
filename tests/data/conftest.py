"""Domains to prepare, and where they are kept."""

import pytest
from made_pairs import pair

from tta_bench.data.file_record import FileRecord


@pytest.fixture
def root(tmp_path):
    """Two domains, P with five and Q with three pairs."""
    root = tmp_path / "data"
    for domain, count in (("P", 5), ("Q", 3)):
        for index in range(count):
            pair(root, domain, f"{index}.png", seed=index)
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "outputs" / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that were decoded."""
    names = []
    read = FileRecord.read

    def counting(self, size):
        names.append(self.name)
        return read(self, size)

    monkeypatch.setattr(FileRecord, "read", counting)
    return names
