"""The camera: optics, sensor, tone curve and compression."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tta_bench.data.synthetic.centres import SENSOR_PIXELS, Centre
from tta_bench.data.synthetic.texture import Array, normal, pixel_centres, texture


def optics(light: Array, centre: Centre, rng: np.random.Generator) -> Array:
    """Illumination, defocus, veiling glare and flare on the linear light [3, size, size]."""
    size = light.shape[-1]
    axis = pixel_centres(size) - 0.5
    slope = rng.uniform(*centre.illumination) * 2
    direction = rng.uniform(0, 2 * np.pi)
    spot = rng.normal(0, 0.08, 2)
    x, y = axis[None, :], axis[:, None]
    lamp = 1 + slope * (np.cos(direction) * x + np.sin(direction) * y)
    lamp = lamp * (1 - rng.uniform(*centre.vignetting) * 2 * ((x - spot[0]) ** 2 + (y - spot[1]) ** 2))
    light = light * np.maximum(lamp, 0.05)

    sigma = rng.uniform(*centre.defocus) * size
    light = ndimage.gaussian_filter(light, (0, sigma, sigma), mode="nearest", truncate=3.0)

    haze = rng.uniform(*centre.haze) * np.clip(1 + 0.35 * texture(rng, size, 3), 0.2, 2.0)
    haze = np.minimum(haze, 0.9)
    veil = (light.mean(axis=(1, 2)) * np.array(centre.haze_tint))[:, None, None]
    return (1 - haze) * light + (haze + _flare(size, centre, rng)) * veil


def _flare(size: int, centre: Centre, rng: np.random.Generator) -> Array:
    """A defocused reflection of the lamp [size, size], somewhere between the disc and the border."""
    axis = pixel_centres(size) - 0.5
    direction, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.30, 0.60)
    dx, dy = axis[None, :] - distance * np.cos(direction), axis[:, None] - distance * np.sin(direction)
    return rng.uniform(*centre.flare) * np.exp(-(dx**2 + dy**2) / (2 * rng.uniform(0.12, 0.25) ** 2))


def expose(light: Array, centre: Centre, rng: np.random.Generator) -> Array:
    """Sensor response to the light: channel mixing, metering, white balance."""
    mixed = (1 - centre.crosstalk) * light + centre.crosstalk * light.mean(axis=0)
    metered = max(0.05, normal(rng, centre.exposure)) / mixed.mean()
    error = np.exp(centre.white_balance_error * rng.standard_normal(3).clip(-2, 2))
    return mixed * metered * (np.array(centre.white_balance) * error)[:, None, None]


def add_noise(light: Array, centre: Centre, rng: np.random.Generator) -> Array:
    """Shot noise: variance proportional to the signal, plus a floor of two per cent of it for reading out."""
    size = light.shape[-1]
    sd = centre.noise * min(1.0, size / SENSOR_PIXELS)
    return light + sd * np.sqrt(np.clip(light, 0, 1) + 0.02) * rng.standard_normal(light.shape)


def develop(light: Array, centre: Centre) -> Array:
    """Tone curve, colour processing and sharpening: linear light to the display range [0, 1]."""
    tone = np.clip(light, 0, 1) ** (1 / centre.gamma)
    tone = 0.5 + centre.contrast * (tone - 0.5)
    if centre.saturation != 1:
        grey = np.tensordot(_TO_YCC[0], tone, 1)
        tone = grey + centre.saturation * (tone - grey)
    if centre.sharpening > 0:
        sigma = 0.008 * light.shape[-1]
        tone = tone + centre.sharpening * (tone - ndimage.gaussian_filter(tone, (0, sigma, sigma), mode="nearest"))
    return np.clip(centre.black_level + (1 - centre.black_level) * tone, 0, 1)


_LUMA_STEPS = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=float,
)
_CHROMA_STEPS = np.full((8, 8), 99.0)
_CHROMA_STEPS[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])

_FREQUENCY, _SAMPLE = np.mgrid[0:8, 0:8]
_DCT = np.cos(np.pi * (2 * _SAMPLE + 1) * _FREQUENCY / 16) * np.where(_FREQUENCY == 0, np.sqrt(1 / 8), 0.5)


def compress(picture: Array, quality: int) -> NDArray[np.uint8]:
    """Quantise the 8x8 cosine blocks of the picture [3, size, size] in [0, 1] the way baseline JPEG does.

    No image library takes part, because their versions differ in the last grey level. Colour is not
    subsampled. Returns uint8 [3, size, size].
    """
    size = picture.shape[-1]
    scale = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    steps = np.stack([_LUMA_STEPS, _CHROMA_STEPS, _CHROMA_STEPS])[:, None, None]
    steps = np.clip(np.floor(steps * scale + 0.5), 1, 255)
    padding = -size % 8
    blocks = np.pad(np.tensordot(_TO_YCC, picture * 255, 1), ((0, 0), (0, padding), (0, padding)), mode="edge")
    blocks[0] -= 128
    across = (size + padding) // 8
    blocks = blocks.reshape(3, across, 8, across, 8).swapaxes(2, 3)
    blocks = _DCT.T @ (np.round(_DCT @ blocks @ _DCT.T / steps) * steps) @ _DCT
    ycc = blocks.swapaxes(2, 3).reshape(3, size + padding, size + padding)[:, :size, :size]
    ycc[0] += 128
    return np.clip(np.round(np.tensordot(_TO_RGB, ycc, 1)), 0, 255).astype(np.uint8)
