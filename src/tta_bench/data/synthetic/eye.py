"""The eye: its geometry, drawn from a centre's population, and the light of its tissues without the vessels."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tta_bench.data.synthetic.centres import Centre
from tta_bench.data.synthetic.texture import Array, normal, pixel_centres, soft_step, texture

# Extinction of the fundus' absorbers in the camera's R, G and B bands, per unit of density. Only the
# ratios matter: haemoglobin absorbs green and blue and hardly red, melanin falls slowly with wavelength,
# the ageing lens takes the blue.
_BLOOD = np.array([0.09, 1.00, 1.15])
_MELANIN = np.array([0.52, 0.86, 1.15])
_LENS = np.array([0.02, 0.18, 0.85])

# Reflectance of what lies under the absorbers: sclera behind the retina, nerve tissue in the rim, bare
# lamina cribrosa in the cup.
_SCLERA = np.array([1.00, 0.84, 0.62])
_NERVE = np.array([0.98, 0.76, 0.52])
_LAMINA = np.array([1.00, 0.90, 0.74])


@dataclass(frozen=True)
class Eye:
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


def sample_eye(centre: Centre, rng: np.random.Generator) -> Eye:
    """Draw one eye of the centre's population."""
    temporal = 1.0 if rng.random() < 0.5 else -1.0
    radius = rng.uniform(*centre.disc_diameter) / 2
    ratio = rng.uniform(1.02, 1.22)  # discs are taller than wide
    position = 0.5 + rng.normal(0, 0.018, 2).clip(-0.04, 0.04)
    tilt = rng.normal(0, 0.25)
    phases = rng.uniform(0, 2 * np.pi, (2, 3))
    disc_waves = np.stack([rng.normal(0, [0.012, 0.010, 0.007]), phases[0]], axis=1)
    cup_waves = np.stack([rng.normal(0, [0.040, 0.030, 0.020]), phases[1]], axis=1)

    cup_radius = float(np.clip(normal(rng, centre.cup_to_disc), 0.25, 0.85))
    # Small cups lie anywhere near the middle, large ones have no room to; cups lie towards the temporal side.
    room = 0.9 - cup_radius
    cup_position = (temporal * 0.12 + rng.normal(0, 0.06)) * min(1.0, 2 * room), rng.normal(0, 0.10) * room
    # Glaucoma takes the rim at the poles first, so that large cups are taller.
    aspect = np.sqrt(rng.uniform(0.92, 1.08) * (1 + 0.15 * (cup_radius - 0.4)))

    sick = rng.random() < centre.atrophy_rate
    atrophy = (rng.uniform(0.5, 1.0) if sick else 0.0, rng.normal(0, 0.5), rng.uniform(*centre.atrophy_width))
    if temporal < 0:
        atrophy = atrophy[0], np.pi - atrophy[1], atrophy[2]
    return Eye(
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
        pallor=float(np.clip(normal(rng, centre.pallor), 0, 1)),
        pigment=max(0.2, normal(rng, centre.pigmentation)),
        tessellation=centre.tessellation * rng.uniform(0.4, 1.4),
        sheen=centre.nerve_sheen * rng.uniform(0.6, 1.4),
        lens=max(0.0, normal(rng, centre.lens_yellowing)),
        atrophy=atrophy,
        cup_contrast=rng.uniform(*centre.cup_contrast),
    )


def _outline(waves: Array, angle: Array) -> Array:
    """Radius of a nearly round outline in the direction of ``angle``, 1 on average."""
    radius = np.ones_like(angle)
    for order, (amplitude, phase) in enumerate(waves, start=2):
        radius += amplitude * np.cos(order * angle + phase)
    return radius


def disc_coordinates(eye: Eye, size: int) -> tuple[Array, Array, Array]:
    """Relative distances from the disc's and the cup's centre (1 on the outline) and the disc's polar angle.

    All [size, size]; the mask and every soft edge of the scene are functions of these two distances, so
    that what is annotated is what is painted.
    """
    axis = pixel_centres(size)
    return relative(eye, axis[None, :], axis[:, None])


def relative(eye: Eye, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """As :func:`disc_coordinates`, at the points (x, y)."""
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


def _absorb(reflectance: Array, *absorbers: tuple[Array, Array]) -> Array:
    """Light [3, size, size] from a reflecting layer behind absorbers given as (density, extinction)."""
    density = sum(d[None] * extinction[:, None, None] for d, extinction in absorbers)
    return reflectance[:, None, None] * np.exp(-np.asarray(density))


def fundus(eye: Eye, disc: Array, cup: Array, angle: Array, rng: np.random.Generator) -> Array:
    """Linear light [3, size, size] of retina, choroid and disc, without the retinal vessels."""
    size = len(disc)
    # Thick nerve fibre bundles blur the disc's edge at its poles.
    edge = eye.disc_edge * (0.7 + 1.3 * np.sin(angle) ** 2) + 1.0 / size / eye.radii[0]
    nerve = soft_step(disc - 1, edge)
    retina = _retina(eye, disc, angle, rng)
    head = _nerve_head(eye, disc, cup, rng)
    light = retina + nerve * (head - retina)
    light = light + _nerve_fibres(eye, disc, cup, angle, rng)
    return light * np.exp(-eye.lens * _LENS)[:, None, None]


def _retina(eye: Eye, disc: Array, angle: Array, rng: np.random.Generator) -> Array:
    """Linear light of retina, choroid and peripapillary changes, as if there were no disc."""
    size = len(disc)
    axis = pixel_centres(size)
    coarse = texture(rng, size, 4)
    patches = texture(rng, size, 9)
    mottling = 0.6 * texture(rng, size, 30) + 0.4 * texture(rng, size, 62)
    # The choroid's large vessels: ridges of a noise, pigment between them.
    tessellation = np.exp(-((texture(rng, size, 13) + 0.4 * texture(rng, size, 7)) ** 2) * 2.5) - 0.5

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
    crescent = strength * soft_step(border, 0.10) * np.clip(3 * facing, 0, 1)
    clumps = strength * facing * np.exp(-((border / 0.07) ** 2)) * np.clip(0.5 + 0.5 * patches, 0, 1.5)
    melanin = melanin * (1 - 0.75 * crescent) + 0.35 * clumps + 0.12 * crescent * mottling
    choroid = choroid * (1 - 0.45 * crescent)

    return _absorb(_SCLERA, (np.maximum(melanin, 0.05), _MELANIN), (np.maximum(choroid, 0.05), _BLOOD))


def _nerve_fibres(eye: Eye, disc: Array, cup: Array, angle: Array, rng: np.random.Generator) -> Array:
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


def _nerve_head(eye: Eye, disc: Array, cup: Array, rng: np.random.Generator) -> Array:
    """Linear light of the optic nerve head: pink rim, pale cup, as if it filled the field."""
    size = len(disc)
    grain = texture(rng, size, 40)
    blotches = texture(rng, size, 12)
    # Capillaries thin out towards the temporal side and with atrophy of the nerve.
    axis = pixel_centres(size)
    temporal = eye.temporal * (axis[None, :] - eye.position[0]) / eye.radii[0]
    capillaries = (0.62 - 0.34 * eye.pallor) * (1 - 0.28 * np.clip(temporal, -1, 1) + 0.14 * blotches + 0.06 * grain)
    rim = _absorb(_NERVE, (np.maximum(capillaries, 0.03), _BLOOD))

    # The floor of the cup: bare lamina with its grey pores where the cup is deep.
    pores = np.clip(texture(rng, size, 34), 0, None) * np.clip(0.75 - cup, 0, 1) * eye.cup_depth
    floor = np.full((size, size), 0.30 - 0.22 * eye.cup_depth) + 0.10 * pores
    bowl = _absorb(_LAMINA, (np.maximum(floor, 0.0), _BLOOD))

    wall = eye.cup_slope / min(eye.cup_radii)
    share = soft_step(cup - 1 + 0.06 * blotches, wall)
    light = rim + eye.cup_contrast * share * (bowl - rim)
    # The scleral ring: a thin bright line inside the disc's edge.
    ring = 0.06 * np.exp(-(((disc - 0.97) / 0.05) ** 2))
    return light * (1 + ring)
