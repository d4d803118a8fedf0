"""Half the products give the same convolution, and to nearly as many digits."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import tta_bench.runtime.numerics as numerics_module
from tta_bench.models.frozen import CHANNELS, LaidOut
from tta_bench.models.winograd import POINTS, combined_kernels, combined_rows, output_rows
from tta_bench.runtime.numerics import _CPU, HOST, placement

ONE = (1, 1)


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def everywhere(monkeypatch):
    """Half the products from the first on, whatever instructions this CPU has."""
    monkeypatch.setattr(numerics_module, "_PLACEMENTS", {("cpu", "f32"): replace(_CPU, halved_from=1)})


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_it_is_the_convolution(padding, width):
    x, weight = drawn(2, 3, 14 - 2 * padding, 9, dtype=torch.double), drawn(4, 3, 3, width, dtype=torch.double)
    products = F.conv2d(combined_rows(x, padding), combined_kernels(weight), padding=(0, padding), groups=POINTS)
    torch.testing.assert_close(output_rows(products), F.conv2d(x, weight, padding=padding), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1])
def test_its_gradient_in_64_bits(padding, monkeypatch):
    row = replace(_CPU, halved_from=1, packed=False)  # the library lays out no weights of 64 bits
    monkeypatch.setattr(numerics_module, "_PLACEMENTS", {("cpu", "f32"): row})
    convolution = LaidOut(drawn(CHANNELS, CHANNELS, 3, 3, dtype=torch.double), None, padding=(padding, 1))
    x = drawn(1, CHANNELS, 6 - 2 * padding, 1, dtype=torch.double).requires_grad_()
    assert convolution._combines_rows(x)
    assert torch.autograd.gradcheck(convolution, x)


@pytest.mark.skipif(not _CPU.packed, reason="this torch has no library that lays weights out")
@pytest.mark.parametrize(("outputs", "inputs", "side"), [(64, 64, 16), (64, 128, 8), (256, 128, 4)])
def test_output_and_gradient_are_as_exact_as_of_all_products(outputs, inputs, side, everywhere, monkeypatch):
    """Up to a factor, which is 1.5 in the mean; their layout in memory is the same."""
    weight, bias = drawn(outputs, inputs, 3, 3), drawn(outputs)
    x, upstream = drawn(2, inputs, side, side).relu(), drawn(2, outputs, side, side)

    def made(convolution, dtype):
        given = x.to(dtype).requires_grad_()
        out = convolution(given)
        return out, torch.autograd.grad(out, given, upstream.to(dtype))[0]

    halved = LaidOut(weight, bias, padding=ONE)
    ours = made(halved, torch.float32)
    assert list(halved._packed) == list(halved._backwards._packed) == [POINTS]
    monkeypatch.setattr(numerics_module, "_PLACEMENTS", {("cpu", "f32"): replace(_CPU, halved_from=None)})
    plain = made(LaidOut(weight, bias, padding=ONE), torch.float32)
    exact = made(lambda y: F.conv2d(y, weight.double(), bias.double(), padding=1), torch.double)
    for one, other, right in zip(ours, plain, exact, strict=True):
        assert one.stride() == other.stride()
        assert (one - right).norm() < 2.5 * (other - right).norm()


@pytest.mark.skipif(not _CPU.packed, reason="this torch has no library that lays weights out")
def test_an_image_has_the_same_bits_alone_and_among_others(everywhere):
    images = drawn(6, 64, 16, 16)
    together = LaidOut(weight := drawn(64, 64, 3, 3), None, padding=ONE)(images)
    for convolution in (LaidOut(weight, None, padding=ONE) for _ in range(2)):
        for part in (1, 2, 3):
            alone = torch.cat([convolution(each) for each in images.split(part)])
            assert alone.equal(together)


def test_only_where_it_gains():
    row = replace(_CPU, halved_from=2**26)

    def halves(*shape, outputs=64, size=3, images=1, **how):
        inputs, height, width = shape
        return LaidOut(torch.empty(outputs, inputs, size, size), None, **{"padding": ONE} | how)._combines_rows(
            torch.empty(images, inputs, height, width)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numerics_module, "_PLACEMENTS", {("cpu", "f32"): row})
        assert halves(64, 64, 64)
        assert halves(64, 66, 66, padding=(0, 0))
        assert not halves(64, 32, 32, images=6)  # the choice is that for an image alone
        assert not halves(32, 128, 128)
        assert not halves(64, 128, 128, outputs=32)
        assert not halves(64, 62, 64)
        assert not halves(64, 64, 64, size=1)
        assert not halves(64, 128, 128, stride=(2, 2))
        assert not halves(64, 64, 64, dilation=(2, 2))
    assert placement(HOST, torch.bfloat16).halved_from is None
    assert placement(torch.device("cuda")).halved_from is None
