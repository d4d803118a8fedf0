"""Results folders to run cells in, trained once for all of these tests."""

import shutil

import pytest

import tta_bench.cell as cell_module
from tiny_cells import configure, execute, random_pairs


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A results folder with a source model, prepared images and nothing else."""
    root = tmp_path_factory.mktemp("trained")
    config = configure(root, "+method=no_adapt", "target=A")
    execute(config)
    shutil.rmtree(root / "cells")
    return root


@pytest.fixture(scope="session")
def finished(tmp_path_factory, trained):
    """A finished GraTa cell with its reference, and what the run printed."""
    root = tmp_path_factory.mktemp("finished") / "results"
    shutil.copytree(trained, root)
    config = configure(root)
    return config, execute(config)


@pytest.fixture
def root(tmp_path, trained):
    """A results folder of one's own, where nothing has to be trained."""
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def computed(monkeypatch):
    """The methods of all cells that are computed, in order."""
    names = []
    compute = cell_module.compute

    def spy(members, *args):
        names.append(members[0].config.method["name"])
        return compute(members, *args)

    monkeypatch.setattr(cell_module, "compute", spy)
    return names


@pytest.fixture
def unequal_targets(tmp_path):
    """A folder of images: four of the source D, one of A and three of C."""
    return random_pairs(tmp_path / "images", {"D": 4, "A": 1, "C": 3})
