"""What the package shows to its users, what stands at its root, and what it costs to import."""

import pkgutil
import subprocess
import sys

import pytest

import tta_bench
from tta_bench.methods.base import METHODS
from tta_bench.objectives.base import OBJECTIVES

HEAVY = {"torch", "numpy", "omegaconf", "hydra", "pytorch_lightning", "segmentation_models_pytorch", "albumentations"}


def imported(statement):
    """The top-level packages that are there after a statement in a process of its own."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement", ["import tta_bench", "import tta_bench.schema", "from tta_bench import __version__"]
)
def test_importing_costs_no_torch(statement):
    assert not imported(statement) & HEAVY


def test_every_name_of_the_face_is_there_and_nothing_else():
    for name in tta_bench.__all__:
        assert getattr(tta_bench, name) is not None
    with pytest.raises(AttributeError, match="module 'tta_bench' has no attribute 'grata'"):
        tta_bench.grata  # noqa: B018


def test_the_face_lists_and_registers(monkeypatch):
    assert tta_bench.list_methods("grat*") == ["grata"]
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    monkeypatch.setattr(OBJECTIVES, "_items", dict(OBJECTIVES._items))

    @tta_bench.register_method("mine")
    class Mine(tta_bench.TTACallback):
        pass

    @tta_bench.register_objective("my_loss")
    def my_loss(network, images, draws):
        return images.flatten(1).mean(1)

    assert METHODS.get("mine") is Mine
    assert OBJECTIVES.get("my_loss") is my_loss


def test_rooms_stand_at_the_root_and_few_modules():
    modules = {each.name for each in pkgutil.iter_modules(tta_bench.__path__) if not each.ispkg}
    assert modules == {"__main__", "adapter", "cell", "errors", "registry", "schema"}
