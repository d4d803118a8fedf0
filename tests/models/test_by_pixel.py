"""BatchNorm of maps whose pixels have their channels side by side."""

import pytest
import torch
import torch.nn.functional as F

from tta_bench.models.by_pixel import by_pixel, standardised_by_pixel


def drawn(dtype, channels=5, side=7, offset=0.0):
    torch.manual_seed(0)
    x = (2 * torch.randn(1, channels, side, side, dtype=dtype) + offset).contiguous(memory_format=torch.channels_last)
    return x, torch.rand(channels, dtype=dtype) + 0.5, torch.randn(channels, dtype=dtype)


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_in_32_bits_it_is_as_exact_as_plane_by_plane(offset):
    x, weight, bias = drawn(torch.float32, 16, 256, offset)
    assert by_pixel(x)
    expected = F.batch_norm(x.double(), None, None, weight.double(), bias.double(), training=True)
    by_planes = F.batch_norm(x.contiguous(), None, None, weight, bias, training=True)
    error, bound = (
        (made.double() - expected).abs().max() for made in (standardised_by_pixel(x, weight, bias, 1e-5), by_planes)
    )
    assert error <= 2 * bound


@pytest.mark.parametrize("side", [2, 7, 64])
def test_values_and_first_and_second_gradients_are_those_of_batch_norm(side):
    inputs = [each.requires_grad_() for each in drawn(torch.float64, side=side)]
    found, expected = [], []
    for normalise, into in (
        (lambda x, w, b: standardised_by_pixel(x, w, b, 1e-5), found),
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True, eps=1e-5), expected),
    ):
        made = normalise(*inputs)
        first = torch.autograd.grad(made.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), inputs)
        into += [made, *first, *second]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_without_a_graph_and_in_16_bits_it_is_the_same():
    x, weight, bias = drawn(torch.float32)
    with torch.no_grad():
        alone = standardised_by_pixel(x, weight, bias, 1e-5)
    assert torch.equal(alone, standardised_by_pixel(x.requires_grad_(), weight, bias, 1e-5))
    halved = standardised_by_pixel(x.detach().bfloat16(), weight, bias, 1e-5)
    torch.testing.assert_close(halved.float(), alone, rtol=0.02, atol=0.02)
