"""Preprocessing belongs to the source model: stored, brought along, and the same in training, cells and checkpoints."""

import copy

import pytest
import torch

from tiny_cells import configure, execute, folder, numbers
from tta_bench.cell import Cell
from tta_bench.errors import UserError
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import load_checkpoint, read_description, save_checkpoint
from tta_bench.ops.preprocessing import Preprocessing

FEW = ("target=A", "data.limit=2")
POWERS_OF_TWO = (0.5, 0.25, 2.0)


def write(path, config, state, preprocessing):
    save_checkpoint(
        path,
        state,
        architecture=config.model.model_dump(mode="json"),
        preprocessing=preprocessing,
        classes=config.data.classes,
        image_size=64,
        domain="D",
    )
    return path


def rows_of(config):
    execute(config)
    return numbers(config), (folder(config) / "predictions.npz").read_bytes()


@pytest.mark.parametrize("method", ["grata", "tent"])
def test_equivalent_preprocessings_of_one_model_give_the_same_cell(tmp_path, method):
    """A deviation at the border is one in the first convolution; powers of two round alike."""
    config = configure(tmp_path, f"+method={method}", *FEW)
    torch.manual_seed(0)
    state = build_model(config.model, 2).state_dict()
    folded = copy.deepcopy(state)
    folded["encoder.model.conv1.0.weight"] /= torch.tensor(POWERS_OF_TWO)[:, None, None]
    forms = {
        "border": (state, Preprocessing("unit", mean=(0.0,), std=POWERS_OF_TWO)),
        "folded": (folded, Preprocessing("unit")),
        "identity": (folded, Preprocessing("unit", mean=(0.0,), std=(1.0,))),
        "other": (folded, Preprocessing()),
    }
    found = {}
    for name, (weights, preprocessing) in forms.items():
        path = write(tmp_path / f"{name}.ckpt", config, weights, preprocessing)
        found[name] = rows_of(configure(tmp_path, f"+method={method}", *FEW, f"checkpoint={path}"))
    assert found["border"] == found["folded"] == found["identity"]
    assert found["border"] != found["other"], "min-max shows the network other images"


def test_a_trained_model_keeps_its_preprocessing_and_refuses_one_that_was_typed(tmp_path):
    config = configure(tmp_path, "+method=no_adapt", "preprocessing=imagenet")
    execute(config)
    (path,) = tmp_path.glob("source_models/*/model.ckpt")
    imagenet = Preprocessing("unit", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert read_description(path).preprocessing == imagenet
    given = configure(tmp_path, "+method=no_adapt", f"checkpoint={path}")
    assert load_checkpoint(path, given).model.preprocessing == imagenet
    same = configure(tmp_path, "+method=no_adapt", f"checkpoint={path}", "preprocessing=imagenet")
    assert load_checkpoint(path, same).model.preprocessing == imagenet
    assert Cell.all_of(same)[0].identity() == Cell.all_of(given)[0].identity()
    typed = configure(tmp_path, "+method=no_adapt", f"checkpoint={path}", "preprocessing=min_max")
    with pytest.raises(UserError, match=r"its preprocessing is unit, mean .* but model.preprocessing is min_max"):
        load_checkpoint(path, typed)


def test_the_paper_s_preprocessing_is_no_part_of_an_identity_and_any_other_is(tmp_path):
    identities = [
        Cell.all_of(configure(tmp_path, "+method=no_adapt", *words))[0].identity()
        for words in ((), ("preprocessing=min_max",), ("preprocessing=unit",))
    ]
    assert identities[0] == identities[1]
    assert "preprocessing" not in identities[0]["model"]
    assert identities[2]["model"]["preprocessing"]["range"] == "unit"
