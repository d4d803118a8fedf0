"""Mean and variance of maps in either order, and BatchNorm of maps whose pixels have their channels side by side."""

import pytest
import torch
import torch.nn.functional as F

from tta_bench.models.by_pixel import by_pixel, moments, standardised_by_pixel


def drawn(dtype, channels=5, side=7, offset=0.0, images=1):
    torch.manual_seed(0)
    x = 2 * torch.randn(images, channels, side, side, dtype=dtype) + offset
    rows = torch.rand(images, channels, dtype=dtype) + 0.5, torch.randn(images, channels, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last), *rows


def one_by_one(x, weight, bias, eps=1e-5):
    parts = zip(x.split(1), weight, bias, strict=True)
    return torch.cat([F.batch_norm(each, None, None, w, b, training=True, eps=eps) for each, w, b in parts])


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_in_32_bits_it_is_as_exact_as_plane_by_plane(offset):
    x, weight, bias = drawn(torch.float32, 16, 256, offset, images=2)
    assert by_pixel(x)
    expected = one_by_one(x.double(), weight.double(), bias.double())
    error, bound = (
        (made.double() - expected).abs().max()
        for made in (standardised_by_pixel(x, weight, bias, 1e-5), one_by_one(x.contiguous(), weight, bias))
    )
    assert error <= 2 * bound


@pytest.mark.parametrize(("side", "images"), [(2, 1), (7, 3), (64, 1)])
def test_values_and_first_and_second_gradients_are_those_of_batch_norm(side, images):
    inputs = [each.requires_grad_() for each in drawn(torch.float64, side=side, images=images)]
    found, expected = [], []
    for normalise, into in ((standardised_by_pixel, found), (one_by_one, expected)):
        made = normalise(*inputs, 1e-5)
        first = torch.autograd.grad(made.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), inputs)
        into += [made, *first, *second]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("images", [1, 3])
def test_without_a_graph_and_in_16_bits_it_is_the_same_and_no_image_depends_on_the_others(images):
    x, weight, bias = drawn(torch.float32, images=images)
    with torch.no_grad():
        alone = standardised_by_pixel(x, weight, bias, 1e-5)
    assert torch.equal(alone, standardised_by_pixel(x.requires_grad_(), weight, bias, 1e-5))
    x = x.detach()
    for dtype in (torch.float32, torch.bfloat16):
        made = standardised_by_pixel(x.to(dtype), weight, bias, 1e-5)
        torch.testing.assert_close(made.float(), alone, rtol=0.02, atol=0.02)
        rows = [slice(each, each + 1) for each in range(images)]
        parts = [standardised_by_pixel(x[row].to(dtype), weight[row], bias[row], 1e-5) for row in rows]
        assert torch.equal(torch.cat(parts), made)
        assert torch.equal(standardised_by_pixel(x.to(dtype), weight.requires_grad_(), bias, 1e-5), made)
        weight = weight.detach()


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


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 33])
def test_the_number_of_threads_decides_no_bit(order, channels):
    x = drawn(torch.float32, channels, 256)[0].contiguous(memory_format=order)
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(torch.cat(moments(x)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])
