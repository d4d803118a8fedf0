"""The retinal vessels: trees of arteries and veins that grow out of the disc, and the light that they absorb."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tta_bench.data.synthetic.centres import Centre
from tta_bench.data.synthetic.eye import Eye, relative
from tta_bench.data.synthetic.texture import Array

# Extinction of venous and arterial blood, as that of the absorbers of the eye.
_VENOUS = np.array([0.34, 1.00, 1.00])
_ARTERIAL = np.array([0.17, 0.95, 1.05])


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


def _trunks(eye: Eye, calibre: float, rng: np.random.Generator) -> _Branches:
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


def _bend_at_cup(branches: _Branches, eye: Eye, rng: np.random.Generator) -> _Branches:
    """Shift the branches sideways where they climb the cup's wall, as vessels do in excavated discs."""
    _, cup, _ = relative(eye, branches.x, branches.y)
    amount = rng.normal(0, 0.10, len(branches.x))[:, None] * min(eye.radii) * eye.cup_depth
    shift = amount * np.exp(-(((cup - 1) / 0.25) ** 2))
    return _Branches(
        x=branches.x - shift * np.sin(branches.heading),
        y=branches.y + shift * np.cos(branches.heading),
        heading=branches.heading,
        width=branches.width,
        vein=branches.vein,
    )


def add_vessels(light: Array, eye: Eye, centre: Centre, rng: np.random.Generator) -> Array:
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
