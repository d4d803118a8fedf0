"""What a GPU computes for :mod:`tta_bench.models.kernels`, in Triton.

Every kernel works on a tile of pixels and channels at a time. An upsampled map is read where its parts lie, and so is
its gradient written.
"""

import triton
import triton.language as tl


@triton.jit
def _places(
    image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
    own, width, per_place, per_quarter, DOUBLED: tl.constexpr,
):  # fmt: skip
    """Where a tile lies in ``x`` and in ``beside``, and which of its numbers each of them has."""
    if DOUBLED:
        row, column = pixel // width, pixel % width
        quarter, place = row % 2 * 2 + column % 2, row // 2 * (width // 2) + column // 2
        within = quarter[:, None] * own + channel[None, :]
        at = image * (own * pixels) + place[:, None] * per_place + within * per_quarter
        is_own = (channel < own)[None, :]
        others = channels - own
        if per_channel == 1:
            at_beside = image * (others * pixels) + pixel[:, None] * others + (channel - own)[None, :]
        else:
            at_beside = image * (others * pixels) + pixel[:, None] + (channel - own)[None, :] * pixels
        return at, inside & is_own, at_beside, inside & ~is_own
    else:
        at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
        return at, inside, at, inside


@triton.jit
def _tile(
    x, beside, added, image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
    own, width, per_place, per_quarter, DOUBLED: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """A tile, as shifted, in 32 bits, and its :func:`_places`."""
    at, here, at_beside, there = _places(
        image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
        own, width, per_place, per_quarter, DOUBLED,
    )  # fmt: skip
    tile = tl.load(x + at, mask=here, other=0).to(tl.float32)
    if DOUBLED:
        tile += tl.load(beside + at_beside, mask=there, other=0).to(tl.float32)
    if SHIFTED:
        tile += added[None, :]
    return tile, at, here, at_beside, there


@triton.jit
def _added(shift, channel, channels, SHIFTED: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """What is added to each channel; zeros for nothing."""
    added = tl.zeros([BLOCK_CHANNELS], tl.float32)
    if SHIFTED:
        added += tl.load(shift + channel, mask=channel < channels, other=0).to(tl.float32)
    return added


@triton.jit
def _of_parts(parts, image, channel, channels, PARTS: tl.constexpr):
    """Where the first numbers of all parts are, ``[PARTS, BLOCK_CHANNELS]``; the parts, and which of them there are."""
    each = tl.arange(0, PARTS)
    real = (each < tl.num_programs(2))[:, None] & (channel < channels)[None, :]
    at = parts + ((image * tl.num_programs(2) + each) * 2)[:, None] * channels + channel[None, :]
    return at, each, real


@triton.jit
def _applied(found, weight, bias, image, channel, channels):
    """Of each channel what :func:`apply` went by: mean, one by the deviation, scale and shift."""
    known, row = channel < channels, image * channels + channel
    mean = tl.load(found + (image * 2) * channels + channel, mask=known, other=0)
    scale = tl.load(found + (image * 2 + 1) * channels + channel, mask=known, other=0)
    return mean, scale, tl.load(weight + row, mask=known, other=0), tl.load(bias + row, mask=known, other=0)


@triton.jit
def measure(
    x, beside, shift, parts, part, pixels, channels, per_image, per_pixel, per_channel,
    own, width, per_place, per_quarter,
    DOUBLED: tl.constexpr, SHIFTED: tl.constexpr, BEFORE: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each part of each channel.

    By Welford's formula at each place of a tile, by Chan's for all places together: additions across the threads of a
    block cost more than all else, and happen once.
    """
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, pixels)
    added = _added(shift, channel, channels, SHIFTED, BLOCK_CHANNELS)
    mean = tl.zeros([BLOCK_PIXELS, BLOCK_CHANNELS], tl.float32)
    squares = tl.zeros([BLOCK_PIXELS, BLOCK_CHANNELS], tl.float32)
    seen = 0.0
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & (channel < channels)[None, :]
        tile, _, _, _, _ = _tile(
            x, beside, added, image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
            own, width, per_place, per_quarter, DOUBLED, SHIFTED,
        )  # fmt: skip
        if BEFORE:
            tile = tl.maximum(tile, 0)
        seen += 1
        step = tl.where(inside, tile - mean, 0)
        mean += step * (1 / seen)
        squares += step * tl.where(inside, tile - mean, 0)
    # Of each row of the tiles: how many there were.
    counts = ((end - begin - tl.arange(0, BLOCK_PIXELS) + BLOCK_PIXELS - 1) // BLOCK_PIXELS).to(tl.float32)[:, None]
    together = tl.sum(mean * counts, 0) / (end - begin)
    away = mean - together[None, :]
    of_part = parts + ((image * tl.num_programs(2) + tl.program_id(2)) * 2) * channels + channel
    tl.store(of_part, together, mask=channel < channels)
    tl.store(of_part + channels, tl.sum(squares + away * away * counts, 0), mask=channel < channels)


@triton.jit
def _store_made(made, residual, out, at, inside, RESIDUAL: tl.constexpr, AFTER: tl.constexpr):
    """A normalised tile, with what comes after: a shortcut, and a ReLU."""
    if RESIDUAL:
        made += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
    if AFTER:
        made = tl.maximum(made, 0)
    tl.store(out + at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def apply(
    x, beside, shift, parts, weight, bias, residual, found, out,
    part, pixels, channels, per_image, per_pixel, per_channel, own, width, per_place, per_quarter, eps,
    DOUBLED: tl.constexpr, SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Statistics of all parts together, kept in ``found``, and what they make of one part."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    known = channel < channels
    first_of, each, real = _of_parts(parts, image, channel, channels, PARTS)
    means, squares = tl.load(first_of, mask=real, other=0), tl.load(first_of + channels, mask=real, other=0)
    counts = tl.where(real, tl.minimum(pixels - each * part, part)[:, None].to(tl.float32), 0)
    mean = tl.sum(means * counts, 0) / pixels
    away = means - mean[None, :]
    variance = tl.sum(squares + away * away * counts, 0) / pixels
    scale = 1 / tl.sqrt(variance + eps)
    row = image * channels + channel
    if tl.program_id(2) == 0:
        tl.store(found + row + image * channels, mean, mask=known)
        tl.store(found + row + (image + 1) * channels, scale, mask=known)
    factor = scale * tl.load(weight + row, mask=known, other=0)
    offset = tl.load(bias + row, mask=known, other=0)
    added = _added(shift, channel, channels, SHIFTED, BLOCK_CHANNELS)
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, pixels)
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & known[None, :]
        at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
        tile, _, _, _, _ = _tile(
            x, beside, added, image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
            own, width, per_place, per_quarter, DOUBLED, SHIFTED,
        )  # fmt: skip
        if BEFORE:
            tile = tl.maximum(tile, 0)
        made = (tile - mean[None, :]) * factor[None, :] + offset[None, :]
        _store_made(made, residual, out, at, inside, RESIDUAL, AFTER)


@triton.jit
def _normal_and_slope(
    tile, gradient, residual, at, inside, mean, scale, factor, offset,
    BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """Normalised values of a tile, as shifted, and the gradient that gets past what came after."""
    normal = ((tl.maximum(tile, 0) if BEFORE else tile) - mean[None, :]) * scale[None, :]
    slope = tl.load(gradient + at, mask=inside, other=0).to(tl.float32)
    if AFTER:
        made = normal * factor[None, :] + offset[None, :]
        if RESIDUAL:
            made += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
        slope = tl.where(made > 0, slope, 0)
    return normal, slope


@triton.jit
def _store_gradients(
    tile, normal, slope, alone, times, scale, factor, pixels, of_input, at_x, here, of_beside, at_beside, there,
    of_residual, at, inside, DOUBLED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile and of its shortcut, from the sums over all pixels of a channel."""
    if AFTER and RESIDUAL:
        tl.store(of_residual + at, slope.to(of_residual.dtype.element_ty), mask=inside)
    made = (slope - (alone[None, :] + normal * times[None, :]) / pixels) * (scale * factor)[None, :]
    if BEFORE:
        made = tl.where(tile > 0, made, 0)
    tl.store(of_input + at_x, made.to(of_input.dtype.element_ty), mask=here)
    if DOUBLED:
        tl.store(of_beside + at_beside, made.to(of_beside.dtype.element_ty), mask=there)


@triton.jit
def measure_gradient(
    x, beside, shift, gradient, weight, bias, residual, found, parts,
    part, pixels, channels, per_image, per_pixel, per_channel, own, width, per_place, per_quarter,
    DOUBLED: tl.constexpr, SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums over each part of the gradient, and of the gradient times the normalised values."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    known = channel < channels
    mean, scale, factor, offset = _applied(found, weight, bias, image, channel, channels)
    added = _added(shift, channel, channels, SHIFTED, BLOCK_CHANNELS)
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, pixels)
    alone = tl.zeros([BLOCK_PIXELS, BLOCK_CHANNELS], tl.float32)
    times = tl.zeros([BLOCK_PIXELS, BLOCK_CHANNELS], tl.float32)
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & known[None, :]
        at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
        tile, _, _, _, _ = _tile(
            x, beside, added, image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
            own, width, per_place, per_quarter, DOUBLED, SHIFTED,
        )  # fmt: skip
        normal, slope = _normal_and_slope(
            tile, gradient, residual, at, inside, mean, scale, factor, offset, BEFORE, RESIDUAL, AFTER
        )
        alone += slope
        times += tl.where(inside, slope * normal, 0)
    of_part = parts + ((image * tl.num_programs(2) + tl.program_id(2)) * 2) * channels + channel
    tl.store(of_part, tl.sum(alone, 0), mask=known)
    tl.store(of_part + channels, tl.sum(times, 0), mask=known)


@triton.jit
def apply_gradient(
    x, beside, shift, gradient, weight, bias, residual, found, parts,
    of_input, of_beside, of_residual, of_weight, of_bias,
    part, pixels, channels, per_image, per_pixel, per_channel, own, width, per_place, per_quarter,
    DOUBLED: tl.constexpr, SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of the scale, of the shift and of one part of the input."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    known = channel < channels
    row = image * channels + channel
    first_of, _, real = _of_parts(parts, image, channel, channels, PARTS)
    alone = tl.sum(tl.load(first_of, mask=real, other=0), 0)
    times = tl.sum(tl.load(first_of + channels, mask=real, other=0), 0)
    if tl.program_id(2) == 0:
        tl.store(of_bias + row, alone, mask=known)
        tl.store(of_weight + row, times, mask=known)
    mean, scale, factor, offset = _applied(found, weight, bias, image, channel, channels)
    added = _added(shift, channel, channels, SHIFTED, BLOCK_CHANNELS)
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, pixels)
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & known[None, :]
        at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
        tile, at_x, here, at_beside, there = _tile(
            x, beside, added, image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
            own, width, per_place, per_quarter, DOUBLED, SHIFTED,
        )  # fmt: skip
        normal, slope = _normal_and_slope(
            tile, gradient, residual, at, inside, mean, scale, factor, offset, BEFORE, RESIDUAL, AFTER
        )
        _store_gradients(
            tile, normal, slope, alone, times, scale, factor, pixels, of_input, at_x, here, of_beside, at_beside, there,
            of_residual, at, inside, DOUBLED, BEFORE, RESIDUAL, AFTER,
        )  # fmt: skip


@triton.jit
def normalise(
    x, beside, shift, weight, bias, residual, found, out,
    pixels, channels, per_image, per_pixel, per_channel, own, width, per_place, per_quarter, eps,
    DOUBLED: tl.constexpr, SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """As :func:`measure` and :func:`apply`, of channels whose pixels are all in one tile."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    known, pixel = channel < channels, tl.arange(0, BLOCK_PIXELS)
    inside = (pixel < pixels)[:, None] & known[None, :]
    at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
    added = _added(shift, channel, channels, SHIFTED, BLOCK_CHANNELS)
    tile, _, _, _, _ = _tile(
        x, beside, added, image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
        own, width, per_place, per_quarter, DOUBLED, SHIFTED,
    )  # fmt: skip
    if BEFORE:
        tile = tl.maximum(tile, 0)
    mean = tl.sum(tl.where(inside, tile, 0), 0) / pixels
    away = tl.where(inside, tile - mean[None, :], 0)
    scale = 1 / tl.sqrt(tl.sum(away * away, 0) / pixels + eps)
    row = image * channels + channel
    tl.store(found + row + image * channels, mean, mask=known)
    tl.store(found + row + (image + 1) * channels, scale, mask=known)
    factor = scale * tl.load(weight + row, mask=known, other=0)
    made = away * factor[None, :] + tl.load(bias + row, mask=known, other=0)[None, :]
    _store_made(made, residual, out, at, inside, RESIDUAL, AFTER)


@triton.jit
def normalise_gradient(
    x, beside, shift, gradient, weight, bias, residual, found,
    of_input, of_beside, of_residual, of_weight, of_bias,
    pixels, channels, per_image, per_pixel, per_channel, own, width, per_place, per_quarter,
    DOUBLED: tl.constexpr, SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """As :func:`measure_gradient` and :func:`apply_gradient`, likewise."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    known, pixel = channel < channels, tl.arange(0, BLOCK_PIXELS)
    inside = (pixel < pixels)[:, None] & known[None, :]
    at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
    mean, scale, factor, offset = _applied(found, weight, bias, image, channel, channels)
    added = _added(shift, channel, channels, SHIFTED, BLOCK_CHANNELS)
    tile, at_x, here, at_beside, there = _tile(
        x, beside, added, image, pixel, channel, inside, pixels, channels, per_image, per_pixel, per_channel,
        own, width, per_place, per_quarter, DOUBLED, SHIFTED,
    )  # fmt: skip
    normal, slope = _normal_and_slope(
        tile, gradient, residual, at, inside, mean, scale, factor, offset, BEFORE, RESIDUAL, AFTER
    )
    alone, times = tl.sum(slope, 0), tl.sum(tl.where(inside, slope * normal, 0), 0)
    row = image * channels + channel
    tl.store(of_bias + row, alone, mask=known)
    tl.store(of_weight + row, times, mask=known)
    _store_gradients(
        tile, normal, slope, alone, times, scale, factor, pixels, of_input, at_x, here, of_beside, at_beside, there,
        of_residual, at, inside, DOUBLED, BEFORE, RESIDUAL, AFTER,
    )  # fmt: skip
