"""Mean and variance of maps in either order, and BatchNorm of maps whose pixels have their channels side by side."""

import pytest
import torch
import torch.nn.functional as F

from tta_bench.models.by_pixel import by_pixel, moments, standardised_by_pixel


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


ORDERS = torch.channels_last, torch.contiguous_format


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("channels", "side"), [(5, 7), (16, 256), (3, 512)])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_mean_and_variance_are_as_exact_as_torch_s(order, channels, side, offset):
    x = torch.cat([drawn(torch.float32, channels, side, offset)[0], drawn(torch.float32, channels, side)[0] ** 3])
    expected = torch.var_mean(x.double(), dim=(2, 3))[::-1]
    errors = (
        [(each.double() - right).abs().max() for each, right in zip(made, expected, strict=True)]
        for made in (moments(x.contiguous(memory_format=order), 1), torch.var_mean(x, dim=(2, 3))[::-1])
    )
    for error, bound, right in zip(*errors, expected, strict=True):
        assert error <= 2 * bound + 2 * torch.finfo(torch.float32).eps * right.abs().max()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("correction", "views"), [(0, 1), (1, 1), (0, 3), (1, 3)])
def test_mean_and_variance_have_the_first_and_second_gradients_of_torch_s(order, correction, views):
    x = torch.randn(6, 2, 3, 2, dtype=torch.float64).contiguous(memory_format=order).requires_grad_()
    variance, mean = torch.var_mean(x.unflatten(0, (-1, views)), dim=(1, 3, 4), correction=correction)
    torch.testing.assert_close(moments(x, correction, views), (mean, variance), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: moments(x, correction, views), x)
    assert torch.autograd.gradgradcheck(lambda x: moments(x, correction, views), x)
