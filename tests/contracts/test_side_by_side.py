"""On a CPU a stream has the same bits beside others as alone: how many share a batch is a matter of speed."""

import pytest
import torch
from runs import branches_of, every_method, make, one, run

from small_networks import with_bank
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.networks.unet import UNet
from tta_bench.models.placement import place
from tta_bench.runtime.numerics import HOST, numerics

ROUNDED = {"fda": 1e-6}
"""Its windows of an odd number of frequencies lie otherwise in the registers of a CPU, whose sines round otherwise."""


@pytest.fixture(scope="module")
def network():
    """The default one, whose deep maps are small enough for a library to round them by how many there are."""
    made = {}

    def network(name):
        branches = branches_of(name)
        if branches not in made:
            torch.manual_seed(0)
            model = with_bank(UNet("resnet18", 2, None, (128, 64, 32, 16, 16), branches))
            made[branches] = place(AdaptableNetwork(model, branches), HOST, 64)
        return made[branches]

    return network


@every_method
def test_a_stream_has_the_same_bits_alone_and_beside_another(network, name):
    streams = dict(zip("BC", torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), strict=True))
    with numerics(HOST):
        together = run(make(name, network(name)), streams)
        for domain in streams:
            alone = run(make(name, network(name)), one(streams, domain))
            for key, logits in alone.logits.items():
                torch.testing.assert_close(together.logits[key], logits, rtol=0, atol=ROUNDED.get(name, 0))
                reported = together.diagnostics[key]
                assert reported == pytest.approx(alone.diagnostics[key], rel=1e-5, abs=1e-7, nan_ok=True)
