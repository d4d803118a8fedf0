"""Procedural, disc-centred colour fundus photographs of five virtual centres A to E.

An image is made the way a photograph is: a *scene* (pigment, choroid, vessels, optic disc), *optics*
(defocus, veiling glare, illumination), a *sensor* (spectral response, exposure, noise, tone curve) and
*compression* (quantised 8x8 cosine blocks). A centre is a population and a camera, hence a distribution
over the parameters of these stages; the numbers are in :data:`CENTRES` and nowhere else.

Coordinates are fractions of the field of view (x to the right, y down, both in [0, 1]), so one
``(centre, index, seed)`` is one eye and one exposure at every image size; a larger image only adds
sharpness. Two things are by nature properties of the delivered pixels: sensor noise (a white noise at
``SENSOR_PIXELS`` samples across the field, which smaller images average down) and compression (blocks
of 8x8 delivered pixels).

All arithmetic is in 64-bit floats, so that differences in the last bit between machines do not reach
the 8-bit output in practice. Every random number comes from a generator seeded with
``(VERSION, seed, centre, index)``; there is no global state.

The data set is frozen: its parameters were set from the behaviour of unadapted models alone, trained with
the shipped recipe, and ``VERSION`` has to change when a single pixel does. docs/synthetic_data.md tells how
it was designed and what unadapted models reach on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

VERSION: Final = 2
"""Version of the rendered pixels; part of every seed."""

SENSOR_PIXELS: Final = 256
"""Sensor samples across the field at which a centre's noise is specified."""

MIN_SIZE: Final = 32
"""Smallest image width in pixels in which disc and cup can still be told apart."""

Array = NDArray[np.float64]

# Extinction of the fundus' absorbers in the camera's R, G and B bands, per unit of density. Only the
# ratios matter: haemoglobin absorbs green and blue and hardly red, melanin falls slowly with wavelength,
# the ageing lens takes the blue.
_BLOOD = np.array([0.09, 1.00, 1.15])
_VENOUS = np.array([0.34, 1.00, 1.00])
_ARTERIAL = np.array([0.17, 0.95, 1.05])
_MELANIN = np.array([0.52, 0.86, 1.15])
_LENS = np.array([0.02, 0.18, 0.85])

# Reflectance of what lies under the absorbers: sclera behind the retina, nerve tissue in the rim, bare
# lamina cribrosa in the cup.
_SCLERA = np.array([1.00, 0.84, 0.62])
_NERVE = np.array([0.98, 0.76, 0.52])
_LAMINA = np.array([1.00, 0.90, 0.74])


@dataclass(frozen=True)
class Centre:
    """Population and camera of one virtual centre.

    Pairs named ``(mean, sd)`` describe a normal distribution cut at two standard deviations; pairs named
    ``(low, high)`` a uniform one.

    Population:
        description: the centre in one sentence.
        count: number of images in the default data set.
        disc_diameter: (low, high) of the disc's mean diameter, fraction of the field, within [0.25, 0.45].
        cup_to_disc: (mean, sd) of the mean cup-to-disc diameter ratio, kept within [0.25, 0.85].
        cup_contrast: (low, high) paleness of the cup against the rim, 1 is normal, 0 makes it invisible.
        cup_slope: (low, high) width of the cup's wall, in disc radii; a wide wall has no clear edge.
        pallor: (mean, sd) of the rim's loss of capillaries, 0 healthy pink to 1 white.
        pigmentation: (mean, sd) of the melanin density of retina and choroid, about 0.3 to 1.6.
        tessellation: contrast of the choroidal vessel pattern, 0 to 1.
        atrophy_rate: share of eyes with a peripapillary atrophy crescent, 0 to 1.
        atrophy_width: (low, high) width of the crescent where it is widest, in disc radii.
        nerve_sheen: brightness of the nerve fibres' reflection, about 0.3 in the old to 2 in the young.
        lens_yellowing: (mean, sd) of the density of the ageing lens, 0 to 1.
        vessel_contrast: blood density of the main veins, about 0.5 to 1.5.
        vessel_calibre: half width of the main veins at the disc, fraction of the field.

    Camera:
        defocus: (low, high) standard deviation of the point spread, fraction of the field.
        haze: (low, high) share of scattered light in the image, 0 to 1.
        haze_tint: RGB colour of the scattered light relative to the mean scene.
        flare: (low, high) peak of a diffuse reflection in the lenses, relative to the mean scene.
        illumination: (low, high) relative brightness change of the illumination from centre to border.
        vignetting: (low, high) relative light loss in the corners, 0 to 1.
        crosstalk: share of every colour channel that leaks from the two others, 0 to 1.
        white_balance: RGB gains.
        white_balance_error: sd of the logarithm of the gains, by which an automatic balance errs per image.
        exposure: (mean, sd) of the metered mean of the linear image, 0 to 1.
        gamma: exponent's denominator of the tone curve, above 1 brightens the shadows.
        contrast: slope of the tone curve in the mid-tones, 1 is neutral.
        saturation: strength of the colours after the camera's own processing, 1 is neutral, above 1 vivid.
        black_level: offset of black in the delivered image, 0 to 1.
        sharpening: amount of the camera's unsharp mask, 0 is none.
        noise: standard deviation of the shot noise at full signal and ``SENSOR_PIXELS`` samples.
        quality: JPEG-like quality, 1 to 100.
    """

    description: str
    count: int
    disc_diameter: tuple[float, float]
    cup_to_disc: tuple[float, float]
    cup_contrast: tuple[float, float]
    cup_slope: tuple[float, float]
    pallor: tuple[float, float]
    pigmentation: tuple[float, float]
    tessellation: float
    atrophy_rate: float
    atrophy_width: tuple[float, float]
    nerve_sheen: float
    lens_yellowing: tuple[float, float]
    vessel_contrast: float
    vessel_calibre: float
    defocus: tuple[float, float]
    haze: tuple[float, float]
    haze_tint: tuple[float, float, float]
    flare: tuple[float, float]
    illumination: tuple[float, float]
    vignetting: tuple[float, float]
    crosstalk: float
    white_balance: tuple[float, float, float]
    white_balance_error: float
    exposure: tuple[float, float]
    gamma: float
    contrast: float
    saturation: float
    black_level: float
    sharpening: float
    noise: float
    quality: int


CENTRES: Final[Mapping[str, Centre]] = MappingProxyType(
    {
        "A": Centre(
            description="Glaucoma clinic, fair tessellated eyes, an older camera: warm, bright, slightly soft images.",
            count=60,
            disc_diameter=(0.32, 0.43),
            cup_to_disc=(0.6, 0.12),
            cup_contrast=(1.0, 1.0),
            cup_slope=(0.30, 0.60),
            pallor=(0.4, 0.15),
            pigmentation=(0.42, 0.1),
            tessellation=0.6,
            atrophy_rate=0.4,
            atrophy_width=(0.2, 0.5),
            nerve_sheen=0.8,
            lens_yellowing=(0.4, 0.12),
            vessel_contrast=0.90,
            vessel_calibre=0.0125,
            defocus=(0.005, 0.009),
            haze=(0.03, 0.14),
            haze_tint=(1.0, 0.9, 0.7),
            flare=(0.0, 0.15),
            illumination=(0.15, 0.4),
            vignetting=(0.1, 0.3),
            crosstalk=0.08,
            white_balance=(1.25, 0.92, 0.55),
            white_balance_error=0.0,
            exposure=(0.37, 0.04),
            gamma=2.2,
            contrast=1.05,
            saturation=1.0,
            black_level=0.02,
            sharpening=0.0,
            noise=0.02,
            quality=80,
        ),
        "B": Centre(
            description="Screening of young dark eyes, a modern table-top camera: red, contrasty, sharpened images.",
            count=50,
            disc_diameter=(0.27, 0.35),
            cup_to_disc=(0.42, 0.11),
            cup_contrast=(0.75, 1.0),
            cup_slope=(0.25, 0.55),
            pallor=(0.05, 0.05),
            pigmentation=(1.25, 0.18),
            tessellation=0.25,
            atrophy_rate=0.20,
            atrophy_width=(0.15, 0.50),
            nerve_sheen=1.8,
            lens_yellowing=(0.30, 0.10),
            vessel_contrast=1.3,
            vessel_calibre=0.0120,
            defocus=(0.002, 0.004),
            haze=(0.0, 0.06),
            haze_tint=(1.0, 0.9, 0.8),
            flare=(0.0, 0.10),
            illumination=(0.1, 0.3),
            vignetting=(0.35, 0.6),
            crosstalk=0.02,
            white_balance=(1.52, 0.7, 0.48),
            white_balance_error=0.0,
            exposure=(0.15, 0.02),
            gamma=2.2,
            contrast=1.3,
            saturation=1.05,
            black_level=0.0,
            sharpening=1.0,
            noise=0.025,
            quality=85,
        ),
        "C": Centre(
            description="Population study of dark eyes, dim, yellowish, hazy and strongly compressed images.",
            count=55,
            disc_diameter=(0.32, 0.45),
            cup_to_disc=(0.48, 0.13),
            cup_contrast=(1.0, 1.0),
            cup_slope=(0.30, 0.65),
            pallor=(0.10, 0.08),
            pigmentation=(1.15, 0.18),
            tessellation=0.15,
            atrophy_rate=0.5,
            atrophy_width=(0.15, 0.50),
            nerve_sheen=1.7,
            lens_yellowing=(0.60, 0.15),
            vessel_contrast=0.80,
            vessel_calibre=0.0115,
            defocus=(0.008, 0.014),
            haze=(0.15, 0.35),
            haze_tint=(0.95, 1.1, 0.7),
            flare=(0.10, 0.70),
            illumination=(0.30, 0.60),
            vignetting=(0.25, 0.50),
            crosstalk=0.12,
            white_balance=(1.0, 0.95, 0.50),
            white_balance_error=0.0,
            exposure=(0.11, 0.02),
            gamma=2.1,
            contrast=0.95,
            saturation=1.0,
            black_level=0.02,
            sharpening=0.0,
            noise=0.03,
            quality=40,
        ),
        "D": Centre(
            description="Hospital eye clinic, mixed eyes, a well focused camera with natural colours.",
            count=100,
            disc_diameter=(0.28, 0.40),
            cup_to_disc=(0.46, 0.12),
            cup_contrast=(1.0, 1.0),
            cup_slope=(0.25, 0.60),
            pallor=(0.20, 0.12),
            pigmentation=(0.75, 0.18),
            tessellation=0.30,
            atrophy_rate=0.25,
            atrophy_width=(0.15, 0.50),
            nerve_sheen=1.0,
            lens_yellowing=(0.30, 0.12),
            vessel_contrast=1.05,
            vessel_calibre=0.0120,
            defocus=(0.002, 0.005),
            haze=(0.0, 0.08),
            haze_tint=(1.0, 1.0, 1.0),
            flare=(0.0, 0.10),
            illumination=(0.05, 0.25),
            vignetting=(0.05, 0.25),
            crosstalk=0.05,
            white_balance=(1.08, 0.97, 0.78),
            white_balance_error=0.0,
            exposure=(0.21, 0.025),
            gamma=2.1,
            contrast=1.05,
            saturation=1.0,
            black_level=0.0,
            sharpening=0.2,
            noise=0.02,
            quality=90,
        ),
        "E": Centre(
            description="Outreach clinic, a hand-held camera: pale, hazy, noisy images of uneven light.",
            count=55,
            disc_diameter=(0.27, 0.40),
            cup_to_disc=(0.56, 0.13),
            cup_contrast=(0.8, 1.0),
            cup_slope=(0.30, 0.65),
            pallor=(0.30, 0.15),
            pigmentation=(0.90, 0.25),
            tessellation=0.20,
            atrophy_rate=0.30,
            atrophy_width=(0.15, 0.50),
            nerve_sheen=0.7,
            lens_yellowing=(0.3, 0.12),
            vessel_contrast=0.95,
            vessel_calibre=0.0125,
            defocus=(0.004, 0.011),
            haze=(0.22, 0.42),
            haze_tint=(0.92, 1.02, 1.2),
            flare=(0.3, 1.0),
            illumination=(0.4, 0.7),
            vignetting=(0.4, 0.7),
            crosstalk=0.22,
            white_balance=(0.88, 1.02, 1.14),
            white_balance_error=0.09,
            exposure=(0.3, 0.06),
            gamma=1.7,
            contrast=0.95,
            saturation=1.0,
            black_level=0.04,
            sharpening=0.3,
            noise=0.055,
            quality=65,
        ),
    }
)
"""The five virtual centres by name."""


def render(centre: str, index: int, *, seed: int = 0, size: int = 128) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render one photograph with its annotation.

    Args:
        centre: name of the centre, "A" to "E".
        index: number of the image within the centre, from 0; not limited by the centre's ``count``.
        seed: number of the whole data set, from 0.
        size: width and height in pixels, at least 32.

    Returns:
        The RGB image, uint8 [size, size, 3], and the mask, uint8 [size, size]: 0 background,
        1 neuroretinal rim, 2 cup.

    Raises:
        ValueError: unknown centre, negative index or seed, or size below 32.
    """
    if centre not in CENTRES:
        raise ValueError(f"unknown centre {centre!r}; valid centres: {', '.join(CENTRES)}")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must not be negative, got index {index} and seed {seed}")
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}")
    parameters = CENTRES[centre]
    # One stream per stage: the number of draws of one stage, which may depend on the size, cannot shift
    # another stage's.
    streams = np.random.SeedSequence((VERSION, seed, ord(centre), index)).spawn(6)
    eye_rng, texture_rng, vessel_rng, optics_rng, exposure_rng, noise_rng = map(np.random.default_rng, streams)

    eye = _sample_eye(parameters, eye_rng)
    disc, cup, angle = _disc_coordinates(eye, size)
    light = _fundus(eye, disc, cup, angle, texture_rng)
    light = _vessels(light, eye, parameters, vessel_rng)
    light = _optics(light, parameters, optics_rng)
    light = _expose(light, parameters, exposure_rng)
    light = _add_noise(light, parameters, noise_rng)
    picture = _compress(_develop(light, parameters), parameters.quality)

    mask = np.zeros((size, size), np.uint8)
    mask[disc <= 1] = 1
    mask[cup <= 1] = 2
    return np.ascontiguousarray(picture.transpose(1, 2, 0)), mask


# ---------------------------------------------------------------------------------------------- the eye


@dataclass(frozen=True)
class _Eye:
    """Geometry and tissue of one eye; lengths in fractions of the field unless said otherwise."""

    position: tuple[float, float]  # disc centre (x, y)
    radii: tuple[float, float]  # disc semi-axes before the turn by ``tilt`` (radians)
    tilt: float
    temporal: float  # +1: the temporal side is on the right, -1: on the left
    disc_waves: Array  # [3, 2] amplitude and phase of the outline's harmonics 2 to 4
    disc_edge: float  # width of the disc's edge, in disc radii
    cup_position: tuple[float, float]  # in disc radii
    cup_radii: tuple[float, float]  # in disc radii
    cup_waves: Array
    cup_slope: float  # in disc radii
    cup_depth: float  # 0 shallow to 1 deep: how pale the cup's floor is
    pallor: float
    pigment: float
    tessellation: float
    sheen: float
    lens: float
    cup_contrast: float  # paleness of the cup against the rim, 1 is normal
    atrophy: tuple[float, float, float]  # strength, direction (radians), width (disc radii)


def _normal(rng: np.random.Generator, mean_sd: tuple[float, float]) -> float:
    mean, sd = mean_sd
    return mean + sd * float(np.clip(rng.standard_normal(), -2, 2))


def _sample_eye(centre: Centre, rng: np.random.Generator) -> _Eye:
    """Draw one eye of the centre's population."""
    temporal = 1.0 if rng.random() < 0.5 else -1.0
    radius = rng.uniform(*centre.disc_diameter) / 2
    ratio = rng.uniform(1.02, 1.22)  # discs are taller than wide
    position = 0.5 + rng.normal(0, 0.018, 2).clip(-0.04, 0.04)
    tilt = rng.normal(0, 0.25)
    phases = rng.uniform(0, 2 * np.pi, (2, 3))
    disc_waves = np.stack([rng.normal(0, [0.012, 0.010, 0.007]), phases[0]], axis=1)
    cup_waves = np.stack([rng.normal(0, [0.040, 0.030, 0.020]), phases[1]], axis=1)

    cup_radius = float(np.clip(_normal(rng, centre.cup_to_disc), 0.25, 0.85))
    # Small cups lie anywhere near the middle, large ones have no room to; cups lie towards the temporal side.
    room = 0.9 - cup_radius
    cup_position = (temporal * 0.12 + rng.normal(0, 0.06)) * min(1.0, 2 * room), rng.normal(0, 0.10) * room
    # Glaucoma takes the rim at the poles first, so that large cups are taller.
    aspect = np.sqrt(rng.uniform(0.92, 1.08) * (1 + 0.15 * (cup_radius - 0.4)))

    sick = rng.random() < centre.atrophy_rate
    atrophy = (rng.uniform(0.5, 1.0) if sick else 0.0, rng.normal(0, 0.5), rng.uniform(*centre.atrophy_width))
    if temporal < 0:
        atrophy = atrophy[0], np.pi - atrophy[1], atrophy[2]
    return _Eye(
        position=(float(position[0]), float(position[1])),
        radii=(radius / np.sqrt(ratio), radius * np.sqrt(ratio)),
        tilt=tilt,
        temporal=temporal,
        disc_waves=disc_waves,
        disc_edge=rng.uniform(0.05, 0.14),
        cup_position=cup_position,
        cup_radii=(cup_radius / aspect, cup_radius * aspect),
        cup_waves=cup_waves,
        cup_slope=rng.uniform(*centre.cup_slope),
        cup_depth=float(np.clip(rng.normal(0.35 + 0.7 * cup_radius, 0.12), 0.3, 1.0)),
        pallor=float(np.clip(_normal(rng, centre.pallor), 0, 1)),
        pigment=max(0.2, _normal(rng, centre.pigmentation)),
        tessellation=centre.tessellation * rng.uniform(0.4, 1.4),
        sheen=centre.nerve_sheen * rng.uniform(0.6, 1.4),
        lens=max(0.0, _normal(rng, centre.lens_yellowing)),
        atrophy=atrophy,
        cup_contrast=rng.uniform(*centre.cup_contrast),
    )


def _pixel_centres(size: int) -> Array:
    return (np.arange(size) + 0.5) / size


def _outline(waves: Array, angle: Array) -> Array:
    """Radius of a nearly round outline in the direction of ``angle``, 1 on average."""
    radius = np.ones_like(angle)
    for order, (amplitude, phase) in enumerate(waves, start=2):
        radius += amplitude * np.cos(order * angle + phase)
    return radius


def _disc_coordinates(eye: _Eye, size: int) -> tuple[Array, Array, Array]:
    """Relative distances from the disc's and the cup's centre (1 on the outline) and the disc's polar angle.

    All [size, size]; the mask and every soft edge of the scene are functions of these two distances, so
    that what is annotated is what is painted.
    """
    axis = _pixel_centres(size)
    return _relative(eye, axis[None, :], axis[:, None])


def _relative(eye: _Eye, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """``_disc_coordinates`` of the points (x, y)."""
    dx, dy = x - eye.position[0], y - eye.position[1]
    cos, sin = np.cos(eye.tilt), np.sin(eye.tilt)
    u = (cos * dx + sin * dy) / eye.radii[0]
    v = (cos * dy - sin * dx) / eye.radii[1]
    angle = np.arctan2(v, u)
    disc = np.hypot(u, v) / _outline(eye.disc_waves, angle)
    u, v = (u - eye.cup_position[0]) / eye.cup_radii[0], (v - eye.cup_position[1]) / eye.cup_radii[1]
    cup = np.hypot(u, v) / _outline(eye.cup_waves, np.arctan2(v, u))
    # However far the rim is lost, a sliver of it remains.
    return disc, np.maximum(cup, disc / 0.94), angle


# ---------------------------------------------------------------------------------------------- textures


@lru_cache(maxsize=64)
def _spline_weights(size: int, cells: int) -> Array:
    """Cubic B-spline weights [size, cells + 3] that take a lattice's knots to the pixel centres."""
    place = _pixel_centres(size) * cells
    cell = np.floor(place).astype(int)
    t = place - cell
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    weights = np.zeros((size, cells + 3))
    np.put_along_axis(weights, cell[:, None] + np.arange(4), taps, axis=1)
    return weights


def _texture(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Band-limited noise [size, size] with about unit variance and ``cells`` bumps across the field."""
    knots = rng.standard_normal((cells + 3, cells + 3))
    if 2 * cells > size:  # beyond what the image can resolve: its mean over a pixel
        return np.zeros((size, size))
    weights = _spline_weights(size, cells)
    # 0.479 is the mean of the squared taps per axis, hence the standard deviation in two.
    return weights @ knots @ weights.T / 0.479


def _soft_step(value: Array, width: float | Array) -> Array:
    """1 well below 0, 0 well above, a smooth ramp of the given width between."""
    t = np.clip(0.5 - value / width, 0, 1)
    return t * t * (3 - 2 * t)


# ---------------------------------------------------------------------------------------------- scene


def _absorb(reflectance: Array, *absorbers: tuple[Array, Array]) -> Array:
    """Light [3, size, size] from a reflecting layer behind absorbers given as (density, extinction)."""
    density = sum(d[None] * extinction[:, None, None] for d, extinction in absorbers)
    return reflectance[:, None, None] * np.exp(-np.asarray(density))


def _fundus(eye: _Eye, disc: Array, cup: Array, angle: Array, rng: np.random.Generator) -> Array:
    """Linear light [3, size, size] of retina, choroid and disc, without the retinal vessels."""
    size = len(disc)
    # Thick nerve fibre bundles blur the disc's edge at its poles.
    edge = eye.disc_edge * (0.7 + 1.3 * np.sin(angle) ** 2) + 1.0 / size / eye.radii[0]
    nerve = _soft_step(disc - 1, edge)
    retina = _retina(eye, disc, angle, rng)
    head = _nerve_head(eye, disc, cup, rng)
    light = retina + nerve * (head - retina)
    light = light + _nerve_fibres(eye, disc, cup, angle, rng)
    return light * np.exp(-eye.lens * _LENS)[:, None, None]


def _retina(eye: _Eye, disc: Array, angle: Array, rng: np.random.Generator) -> Array:
    """Linear light of retina, choroid and peripapillary changes, as if there were no disc."""
    size = len(disc)
    axis = _pixel_centres(size)
    coarse = _texture(rng, size, 4)
    patches = _texture(rng, size, 9)
    mottling = 0.6 * _texture(rng, size, 30) + 0.4 * _texture(rng, size, 62)
    # The choroid's large vessels: ridges of a noise, pigment between them.
    tessellation = np.exp(-((_texture(rng, size, 13) + 0.4 * _texture(rng, size, 7)) ** 2) * 2.5) - 0.5

    # The macula, beyond the field on the temporal side, has the densest pigment.
    towards_macula = eye.temporal * (axis[None, :] - 0.5)
    melanin = eye.pigment * (
        1
        + 0.10 * coarse
        + 0.06 * patches
        + 0.08 * mottling
        + 0.30 * towards_macula
        - 0.9 * eye.tessellation * tessellation
    )
    choroid = 0.62 + 0.06 * coarse + 0.35 * eye.tessellation * tessellation

    # Peripapillary atrophy: a crescent that follows the disc, without pigment, its border ragged and dark.
    strength, direction, width = eye.atrophy
    facing = np.clip((np.cos(angle - direction) + 0.35) / 1.35, 0, 1)
    border = disc - 1 - width * facing * (1 + 0.25 * patches)
    crescent = strength * _soft_step(border, 0.10) * np.clip(3 * facing, 0, 1)
    clumps = strength * facing * np.exp(-((border / 0.07) ** 2)) * np.clip(0.5 + 0.5 * patches, 0, 1.5)
    melanin = melanin * (1 - 0.75 * crescent) + 0.35 * clumps + 0.12 * crescent * mottling
    choroid = choroid * (1 - 0.45 * crescent)

    return _absorb(_SCLERA, (np.maximum(melanin, 0.05), _MELANIN), (np.maximum(choroid, 0.05), _BLOOD))


def _nerve_fibres(eye: _Eye, disc: Array, cup: Array, angle: Array, rng: np.random.Generator) -> Array:
    """Linear light reflected by the nerve fibres: striae that fan out of the disc, dense above and below."""
    table = ndimage.gaussian_filter1d(rng.standard_normal(720), 1.6, mode="wrap")
    fan = angle + 0.25 * np.sin(2 * angle) * eye.temporal * np.clip(disc - 1, 0, 2)
    turns = np.linspace(-np.pi, np.pi, 720, endpoint=False)
    striae = np.interp(fan.ravel(), turns, table, period=2 * np.pi).reshape(fan.shape)
    bundle = np.exp(-np.clip(disc - 0.9, 0, None) / 0.8) * (0.25 + 0.75 * np.sin(angle) ** 2)
    # Their sheen builds up over the rim; the cup has none.
    bundle = bundle * np.clip((cup - 0.8) / 0.6, 0, 1)
    sheen = eye.sheen * np.clip(bundle * (0.040 + 0.055 * striae), 0, None)
    return sheen * np.array([0.8, 1.0, 0.9])[:, None, None]


def _nerve_head(eye: _Eye, disc: Array, cup: Array, rng: np.random.Generator) -> Array:
    """Linear light of the optic nerve head: pink rim, pale cup, as if it filled the field."""
    size = len(disc)
    grain = _texture(rng, size, 40)
    blotches = _texture(rng, size, 12)
    # Capillaries thin out towards the temporal side and with atrophy of the nerve.
    axis = _pixel_centres(size)
    temporal = eye.temporal * (axis[None, :] - eye.position[0]) / eye.radii[0]
    capillaries = (0.62 - 0.34 * eye.pallor) * (1 - 0.28 * np.clip(temporal, -1, 1) + 0.14 * blotches + 0.06 * grain)
    rim = _absorb(_NERVE, (np.maximum(capillaries, 0.03), _BLOOD))

    # The floor of the cup: bare lamina with its grey pores where the cup is deep.
    pores = np.clip(_texture(rng, size, 34), 0, None) * np.clip(0.75 - cup, 0, 1) * eye.cup_depth
    floor = np.full((size, size), 0.30 - 0.22 * eye.cup_depth) + 0.10 * pores
    bowl = _absorb(_LAMINA, (np.maximum(floor, 0.0), _BLOOD))

    wall = eye.cup_slope / min(eye.cup_radii)
    share = _soft_step(cup - 1 + 0.06 * blotches, wall)
    light = rim + eye.cup_contrast * share * (bowl - rim)
    # The scleral ring: a thin bright line inside the disc's edge.
    ring = 0.06 * np.exp(-(((disc - 0.97) / 0.05) ** 2))
    return light * (1 + ring)


# ---------------------------------------------------------------------------------------------- vessels


@dataclass(frozen=True)
class _Branches:
    """Vessel branches as polylines: arrays [branches, points]; lengths in fractions of the field."""

    x: Array
    y: Array
    heading: Array  # radians
    width: Array  # half width
    vein: NDArray[np.bool_]  # [branches]


_STEP: Final = 1 / 90  # length of one vessel segment


def _grow(
    x: Array,
    y: Array,
    start: Array,
    turn: Array,
    width: Array,
    taper: float,
    vein: NDArray[np.bool_],
    points: int,
    wiggle: float,
    rng: np.random.Generator,
) -> _Branches:
    """Branches from start points and headings that turn by ``turn`` on their way and waver by ``wiggle``."""
    s = np.linspace(0, 1, points)
    phase = rng.uniform(0, 2 * np.pi, (len(x), 3, 1))
    waves = np.sin(2 * np.pi * np.array([1.3, 2.9, 5.3])[:, None] * s * points * _STEP / 0.6 + phase)
    heading = start[:, None] + turn[:, None] * s * (2 - s)
    heading = heading + wiggle * (waves * np.array([0.8, 1.0, 0.7])[:, None]).sum(axis=1)
    along_x, along_y = np.cos(heading) * _STEP, np.sin(heading) * _STEP
    return _Branches(
        x=x[:, None] + np.cumsum(along_x, axis=1) - along_x,
        y=y[:, None] + np.cumsum(along_y, axis=1) - along_y,
        heading=heading,
        width=width[:, None] * (1 - taper * s),
        vein=vein,
    )


def _trunks(eye: _Eye, calibre: float, rng: np.random.Generator) -> _Branches:
    """The main arteries and veins: four of each, to the four quadrants, and a few small ones."""
    up = np.array([-1, -1, 1, 1, -1, -1, 1, 1, -1, 1, -1, 1, 1, -1])
    side = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1, 1, -1, -1, 1, 1]) * eye.temporal
    vein = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0], bool)
    small = np.arange(14) >= 8
    nasal = side * eye.temporal < 0
    # Deviation from the vertical towards the side: upright at the disc, then arching around the macula.
    first = np.where(small, rng.uniform(0.9, 1.5, 14), rng.uniform(0.05, 0.45, 14))
    last = np.where(small, rng.uniform(1.2, 1.7, 14), rng.uniform(0.45, 1.2, 14))
    heading = np.arctan2(up * np.cos(first), side * np.sin(first)) + 0.6 * eye.tilt
    turn = -up * side * (last - first)
    radius = min(eye.radii)
    # The hilum lies nasally in the disc; veins leave a little beside the arteries.
    x = eye.position[0] + radius * (-0.22 * eye.temporal + 0.05 * vein + rng.normal(0, 0.10, 14))
    y = eye.position[1] + radius * (0.10 * up + rng.normal(0, 0.08, 14))
    width = calibre * np.where(vein, 1.0, 0.72) * np.where(nasal, 0.8, 1.0) * rng.uniform(0.85, 1.1, 14)
    width = width * np.where(small, rng.uniform(0.25, 0.45, 14), 1.0)
    return _grow(x, y, heading, turn, width, 0.35, vein, 72, 0.10, rng)


def _children(parents: _Branches, per_parent: int, points: int, rng: np.random.Generator) -> _Branches:
    """Side branches at random places of each parent, alternating sides."""
    count, length = parents.x.shape
    parent = np.repeat(np.arange(count), per_parent)
    slots = (np.arange(per_parent) + rng.uniform(0.1, 0.9, (count, per_parent))) / per_parent
    place = (length * (0.15 + 0.75 * slots)).astype(int).ravel()
    sign = np.where(rng.random(len(parent)) < 0.15, -1, 1) * np.where(np.arange(len(parent)) % 2, 1, -1)
    start = parents.heading[parent, place] + sign * rng.uniform(0.45, 1.05, len(parent))
    turn = -sign * rng.uniform(-0.3, 0.9, len(parent))
    width = parents.width[parent, place] * rng.uniform(0.35, 0.65, len(parent))
    return _grow(
        parents.x[parent, place],
        parents.y[parent, place],
        start,
        turn,
        width,
        0.5,
        parents.vein[parent],
        points,
        0.16,
        rng,
    )


def _bend_at_cup(branches: _Branches, eye: _Eye, rng: np.random.Generator) -> _Branches:
    """Shift the branches sideways where they climb the cup's wall, as vessels do in excavated discs."""
    _, cup, _ = _relative(eye, branches.x, branches.y)
    amount = rng.normal(0, 0.10, len(branches.x))[:, None] * min(eye.radii) * eye.cup_depth
    shift = amount * np.exp(-(((cup - 1) / 0.25) ** 2))
    return _Branches(
        x=branches.x - shift * np.sin(branches.heading),
        y=branches.y + shift * np.cos(branches.heading),
        heading=branches.heading,
        width=branches.width,
        vein=branches.vein,
    )


def _vessels(light: Array, eye: _Eye, centre: Centre, rng: np.random.Generator) -> Array:
    """The light after the retinal vessels, which lie in front of everything, have absorbed their part."""
    size = light.shape[-1]
    calibre = centre.vessel_calibre * rng.uniform(0.85, 1.15)
    trunks = _trunks(eye, calibre, rng)
    second = _children(trunks, 4, 46, rng)
    third = _children(second, 3, 26, rng)
    segments: list[Array] = []
    for branches in (trunks, second, third):
        bent = _bend_at_cup(branches, eye, rng)
        vein = np.broadcast_to(bent.vein[:, None], bent.x[:, 1:].shape)
        ends = (bent.x[:, :-1], bent.y[:, :-1], bent.x[:, 1:], bent.y[:, 1:])
        segments.append(np.stack([a.ravel() for a in (*ends, bent.width[:, 1:], vein)]))
    x0, y0, x1, y1, width, vein = np.concatenate(segments, axis=1)
    # Thin vessels hold less blood in the line of sight.
    density = np.sqrt(width / calibre)
    blood_vein, _ = _draw(size, x0, y0, x1, y1, width, density * (vein > 0))
    blood_artery, reflex = _draw(size, x0, y0, x1, y1, width, 0.85 * density * (vein == 0))
    dark = centre.vessel_contrast * (
        blood_vein[None] * _VENOUS[:, None, None] + blood_artery[None] * _ARTERIAL[:, None, None]
    )
    # The light streak along the arteries is a mirror reflection off the blood column.
    return light * np.exp(-dark) + 0.10 * reflex * np.exp(-3 * blood_vein) * np.array([1.0, 0.7, 0.5])[:, None, None]


def _draw(size: int, x0: Array, y0: Array, x1: Array, y1: Array, width: Array, density: Array) -> tuple[Array, Array]:
    """Blood density and central reflex [size, size] of straight vessel segments with round cross-section."""
    pixel = 1 / size
    reach = width + pixel
    keep = (density > 0) & (np.minimum(x0, x1) < 1 + reach) & (np.maximum(x0, x1) > -reach)
    keep &= (np.minimum(y0, y1) < 1 + reach) & (np.maximum(y0, y1) > -reach)
    x0, y0, x1, y1, width, density, reach = (a[keep] for a in (x0, y0, x1, y1, width, density, reach))
    # A vessel thinner than a pixel is drawn a pixel wide and fainter.
    drawn = np.hypot(width, 0.6 * pixel)
    density = density * width / drawn
    half = np.hypot(x1 - x0, y1 - y0) / 2
    blood, reflex = np.zeros(size * size), np.zeros(size * size)
    patch = 2 * np.ceil((half + reach) * size / 2).astype(int) * 2 + 1
    for side in np.unique(patch):
        group = patch == side
        offsets = np.arange(side) - side // 2
        centre_x, centre_y = (x0[group] + x1[group]) / 2, (y0[group] + y1[group]) / 2
        column = np.floor(centre_x * size).astype(int)[:, None, None] + offsets[None, None, :]
        row = np.floor(centre_y * size).astype(int)[:, None, None] + offsets[None, :, None]
        dx = (column + 0.5) * pixel - centre_x[:, None, None]
        dy = (row + 0.5) * pixel - centre_y[:, None, None]
        length = np.maximum(2 * half[group], 1e-9)
        cos, sin = ((x1 - x0)[group] / length)[:, None, None], ((y1 - y0)[group] / length)[:, None, None]
        beyond = np.maximum(np.abs(cos * dx + sin * dy) - half[group][:, None, None], 0)
        across = ((cos * dy - sin * dx) ** 2 + beyond**2) / drawn[group][:, None, None] ** 2
        column, row = np.broadcast_arrays(column, row)
        hit = (across < 1) & (column >= 0) & (column < size) & (row >= 0) & (row < size)
        place = (row * size + column)[hit]
        across = across[hit]
        strength = np.broadcast_to(density[group][:, None, None], hit.shape)[hit]
        thick = np.broadcast_to(width[group][:, None, None], hit.shape)[hit]
        np.maximum.at(blood, place, strength * np.sqrt(1 - across))
        np.maximum.at(reflex, place, np.clip(thick / 0.008 - 0.4, 0, 1) * np.exp(-across / 0.12))
    return blood.reshape(size, size), reflex.reshape(size, size)


# ---------------------------------------------------------------------------------------------- camera


def _optics(light: Array, centre: Centre, rng: np.random.Generator) -> Array:
    """Illumination, defocus, veiling glare and flare on the linear light [3, size, size]."""
    size = light.shape[-1]
    axis = _pixel_centres(size) - 0.5
    slope = rng.uniform(*centre.illumination) * 2
    direction = rng.uniform(0, 2 * np.pi)
    spot = rng.normal(0, 0.08, 2)
    x, y = axis[None, :], axis[:, None]
    lamp = 1 + slope * (np.cos(direction) * x + np.sin(direction) * y)
    lamp = lamp * (1 - rng.uniform(*centre.vignetting) * 2 * ((x - spot[0]) ** 2 + (y - spot[1]) ** 2))
    light = light * np.maximum(lamp, 0.05)

    sigma = rng.uniform(*centre.defocus) * size
    light = ndimage.gaussian_filter(light, (0, sigma, sigma), mode="nearest", truncate=3.0)

    haze = rng.uniform(*centre.haze) * np.clip(1 + 0.35 * _texture(rng, size, 3), 0.2, 2.0)
    haze = np.minimum(haze, 0.9)
    veil = (light.mean(axis=(1, 2)) * np.array(centre.haze_tint))[:, None, None]
    return (1 - haze) * light + (haze + _flare(size, centre, rng)) * veil


def _flare(size: int, centre: Centre, rng: np.random.Generator) -> Array:
    """A defocused reflection of the lamp [size, size], somewhere between the disc and the border."""
    axis = _pixel_centres(size) - 0.5
    direction, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.30, 0.60)
    dx, dy = axis[None, :] - distance * np.cos(direction), axis[:, None] - distance * np.sin(direction)
    return rng.uniform(*centre.flare) * np.exp(-(dx**2 + dy**2) / (2 * rng.uniform(0.12, 0.25) ** 2))


def _expose(light: Array, centre: Centre, rng: np.random.Generator) -> Array:
    """Sensor response to the light: channel mixing, metering, white balance."""
    mixed = (1 - centre.crosstalk) * light + centre.crosstalk * light.mean(axis=0)
    metered = max(0.05, _normal(rng, centre.exposure)) / mixed.mean()
    error = np.exp(centre.white_balance_error * rng.standard_normal(3).clip(-2, 2))
    return mixed * metered * (np.array(centre.white_balance) * error)[:, None, None]


def _add_noise(light: Array, centre: Centre, rng: np.random.Generator) -> Array:
    """Shot noise: variance proportional to the signal, plus a floor of two per cent of it for reading out."""
    size = light.shape[-1]
    sd = centre.noise * min(1.0, size / SENSOR_PIXELS)
    return light + sd * np.sqrt(np.clip(light, 0, 1) + 0.02) * rng.standard_normal(light.shape)


def _develop(light: Array, centre: Centre) -> Array:
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


def _compress(picture: Array, quality: int) -> NDArray[np.uint8]:
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
