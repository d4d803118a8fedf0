"""The cosine with the gradient of the labels: right, recorded per image, and without any effect on the adaptation."""

import csv

import pytest
import torch
import torch.nn.functional as F

from tta_bench.adaptation.empirical_gradient import empirical_gradient
from tta_bench.cell import Cell, run
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey

SMALL = [
    *("source=B", "target=C,E", "data.limit=4", "data.image_size=64"),
    *("training.epochs=1", "training.min_steps=0", "model.encoder=tu-test_resnet"),
    "model.decoder_channels=[16,16,8,8,8]",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def rows_of(root, *overrides):
    """The rows of a cell, computed if need be, and its predictions."""
    (config,) = check(quote_lists([*SMALL, f"results_root={root}", *overrides], multirun=False), multirun=False)
    list(run(config))
    folder = Cell.of(config, 0).folder()
    with (folder.path / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file)), (folder.path / "predictions.npz").read_bytes(), folder


@pytest.mark.parametrize("method", ["tent", "grata"])
def test_the_adaptation_is_the_same_bits_with_and_without_it(root, method):
    off, masks_off, folder_off = rows_of(root, f"+method={method}")
    on, masks_on, folder_on = rows_of(root, f"+method={method}", "diagnostics.empirical_gradient=true")
    assert folder_on.hash != folder_off.hash
    assert all(-1 <= float(row.pop("cosine_empirical")) <= 1 for row in on)
    for row in (*off, *on):
        del row["seconds"]
    assert on == off
    assert masks_on == masks_off
    counted = [
        [folder.finished()[0][key] for key in ("forwards_per_image", "backwards_per_image", "skipped_updates")]
        for folder in (folder_on, folder_off)
    ]
    assert counted[0] == counted[1]


def test_lockstep_and_one_by_one_record_the_same(root):
    keys = ["+method=tent", "diagnostics.empirical_gradient=true", "data.limit=3"]
    alone, _, _ = rows_of(root, *keys)
    together, _, _ = rows_of(root, *keys, "lockstep=2", "force=true")
    for first, second in zip(alone, together, strict=True):
        assert float(first["cosine_empirical"]) == pytest.approx(float(second["cosine_empirical"]), abs=1e-4)


@pytest.mark.parametrize(
    "method", [["+method=no_adapt"], ["+method=vptta", "method.prompt_size=64"]], ids=["nothing", "a long prompt"]
)
def test_a_method_that_follows_no_gradient_of_the_parameters_has_no_such_column(root, method):
    rows, _, _ = rows_of(root, *method, "diagnostics.empirical_gradient=true")
    assert "cosine_empirical" not in rows[0]


def test_it_is_refused_with_several_updates_per_image():
    with pytest.raises(UserError, match=r"protocol\.steps=1"):
        check(["+method=tent", "source=D", "protocol.steps=2", "diagnostics.empirical_gradient=true"])


def test_the_gradient_is_that_of_the_supervised_cross_entropy(small_net, images):
    network = AdaptableNetwork(small_net)
    method = METHODS.get("tent")(network)
    labels = images[:2, :2] > 0.5
    theta = (network.source_theta + 0.01).expand(2, -1)
    gradient = empirical_gradient(method, images[:2], labels, theta)
    for row in range(2):
        single = theta[row : row + 1].clone().requires_grad_()
        logits = network(images[row : row + 1], single)
        (expected,) = torch.autograd.grad(
            F.binary_cross_entropy(torch.sigmoid(logits), labels[row : row + 1].double()), single
        )
        torch.testing.assert_close(gradient[row], expected[0], rtol=0, atol=1e-12)
    assert method.backwards == 0


def test_descending_the_gradient_of_the_labels_themselves_has_cosine_one(small_net, images):
    network = AdaptableNetwork(small_net)
    method = METHODS.get("tent")(network)
    method.start(1)
    image, labels = images[:1], images[:1, :2] > 0.5
    supervised = empirical_gradient(method, image, labels, method.theta(1))
    method.state.step(supervised, torch.tensor([1e-3]), torch.tensor([0.0]))
    assert torch.equal(method.state.followed_gradient(1), supervised)
    method.step(image, [ImageKey(0, "B", "image")])
    assert not torch.equal(method.state.followed_gradient(1), supervised)
    method.state.step(supervised * torch.nan, torch.tensor([1e-3]), torch.tensor([0.0]))
    assert method.state.followed_gradient(1).isnan().all()
