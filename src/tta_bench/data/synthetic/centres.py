"""The five virtual centres: their populations and cameras, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

VERSION: Final = 2
"""Version of the rendered pixels; part of every seed."""

SENSOR_PIXELS: Final = 256
"""Sensor samples across the field at which a centre's noise is specified."""


@dataclass(frozen=True)
class Centre:
    """Population and camera of one virtual centre.

    Pairs named ``(mean, sd)`` describe a normal distribution cut at two standard deviations; pairs named
    ``(low, high)`` a uniform one.
    """

    # The population.
    description: str  # the centre in one sentence
    count: int  # number of images in the default data set
    # (low, high) of the disc's mean diameter, fraction of the field, within [0.25, 0.45].
    disc_diameter: tuple[float, float]
    cup_to_disc: tuple[float, float]  # (mean, sd) of the mean cup-to-disc diameter ratio, kept within [0.25, 0.85]
    # (low, high) paleness of the cup against the rim, 1 is normal, 0 makes it invisible.
    cup_contrast: tuple[float, float]
    cup_slope: tuple[float, float]  # (low, high) width of the cup's wall, in disc radii; a wide wall has no clear edge
    pallor: tuple[float, float]  # (mean, sd) of the rim's loss of capillaries, 0 healthy pink to 1 white
    pigmentation: tuple[float, float]  # (mean, sd) of the melanin density of retina and choroid, about 0.3 to 1.6
    tessellation: float  # contrast of the choroidal vessel pattern, 0 to 1
    atrophy_rate: float  # share of eyes with a peripapillary atrophy crescent, 0 to 1
    atrophy_width: tuple[float, float]  # (low, high) width of the crescent where it is widest, in disc radii
    nerve_sheen: float  # brightness of the nerve fibres' reflection, about 0.3 in the old to 2 in the young
    lens_yellowing: tuple[float, float]  # (mean, sd) of the density of the ageing lens, 0 to 1
    vessel_contrast: float  # blood density of the main veins, about 0.5 to 1.5
    vessel_calibre: float  # half width of the main veins at the disc, fraction of the field

    # The camera.
    defocus: tuple[float, float]  # (low, high) standard deviation of the point spread, fraction of the field
    haze: tuple[float, float]  # (low, high) share of scattered light in the image, 0 to 1
    haze_tint: tuple[float, float, float]  # RGB colour of the scattered light relative to the mean scene
    flare: tuple[float, float]  # (low, high) peak of a diffuse reflection in the lenses, relative to the mean scene
    # (low, high) relative brightness change of the illumination from centre to border.
    illumination: tuple[float, float]
    vignetting: tuple[float, float]  # (low, high) relative light loss in the corners, 0 to 1
    crosstalk: float  # share of every colour channel that leaks from the two others, 0 to 1
    white_balance: tuple[float, float, float]  # RGB gains
    white_balance_error: float  # sd of the logarithm of the gains, by which an automatic balance errs per image
    exposure: tuple[float, float]  # (mean, sd) of the metered mean of the linear image, 0 to 1
    gamma: float  # exponent's denominator of the tone curve, above 1 brightens the shadows
    contrast: float  # slope of the tone curve in the mid-tones, 1 is neutral
    saturation: float  # strength of the colours after the camera's own processing, 1 is neutral, above 1 vivid
    black_level: float  # offset of black in the delivered image, 0 to 1
    sharpening: float  # amount of the camera's unsharp mask, 0 is none
    noise: float  # standard deviation of the shot noise at full signal and ``SENSOR_PIXELS`` samples
    quality: int  # JPEG-like quality, 1 to 100


_VALUES: Final[Mapping[str, tuple[Any, ...]]] = {
    "description": (
        "Glaucoma clinic, fair tessellated eyes, an older camera: warm, bright, slightly soft images.",
        "Screening of young dark eyes, a modern table-top camera: red, contrasty, sharpened images.",
        "Population study of dark eyes, dim, yellowish, hazy and strongly compressed images.",
        "Hospital eye clinic, mixed eyes, a well focused camera with natural colours.",
        "Outreach clinic, a hand-held camera: pale, hazy, noisy images of uneven light.",
    ),
    "count": (60, 50, 55, 100, 55),
    "disc_diameter": ((0.32, 0.43), (0.27, 0.35), (0.32, 0.45), (0.28, 0.40), (0.27, 0.40)),
    "cup_to_disc": ((0.6, 0.12), (0.42, 0.11), (0.48, 0.13), (0.46, 0.12), (0.56, 0.13)),
    "cup_contrast": ((1.0, 1.0), (0.75, 1.0), (1.0, 1.0), (1.0, 1.0), (0.8, 1.0)),
    "cup_slope": ((0.30, 0.60), (0.25, 0.55), (0.30, 0.65), (0.25, 0.60), (0.30, 0.65)),
    "pallor": ((0.4, 0.15), (0.05, 0.05), (0.10, 0.08), (0.20, 0.12), (0.30, 0.15)),
    "pigmentation": ((0.42, 0.1), (1.25, 0.18), (1.15, 0.18), (0.75, 0.18), (0.90, 0.25)),
    "tessellation": (0.6, 0.25, 0.15, 0.30, 0.20),
    "atrophy_rate": (0.4, 0.20, 0.5, 0.25, 0.30),
    "atrophy_width": ((0.2, 0.5), (0.15, 0.50), (0.15, 0.50), (0.15, 0.50), (0.15, 0.50)),
    "nerve_sheen": (0.8, 1.8, 1.7, 1.0, 0.7),
    "lens_yellowing": ((0.4, 0.12), (0.30, 0.10), (0.60, 0.15), (0.30, 0.12), (0.3, 0.12)),
    "vessel_contrast": (0.90, 1.3, 0.80, 1.05, 0.95),
    "vessel_calibre": (0.0125, 0.0120, 0.0115, 0.0120, 0.0125),
    "defocus": ((0.005, 0.009), (0.002, 0.004), (0.008, 0.014), (0.002, 0.005), (0.004, 0.011)),
    "haze": ((0.03, 0.14), (0.0, 0.06), (0.15, 0.35), (0.0, 0.08), (0.22, 0.42)),
    "haze_tint": ((1.0, 0.9, 0.7), (1.0, 0.9, 0.8), (0.95, 1.1, 0.7), (1.0, 1.0, 1.0), (0.92, 1.02, 1.2)),
    "flare": ((0.0, 0.15), (0.0, 0.10), (0.10, 0.70), (0.0, 0.10), (0.3, 1.0)),
    "illumination": ((0.15, 0.4), (0.1, 0.3), (0.30, 0.60), (0.05, 0.25), (0.4, 0.7)),
    "vignetting": ((0.1, 0.3), (0.35, 0.6), (0.25, 0.50), (0.05, 0.25), (0.4, 0.7)),
    "crosstalk": (0.08, 0.02, 0.12, 0.05, 0.22),
    "white_balance": ((1.25, 0.92, 0.55), (1.52, 0.7, 0.48), (1.0, 0.95, 0.50), (1.08, 0.97, 0.78), (0.88, 1.02, 1.14)),
    "white_balance_error": (0.0, 0.0, 0.0, 0.0, 0.09),
    "exposure": ((0.37, 0.04), (0.15, 0.02), (0.11, 0.02), (0.21, 0.025), (0.3, 0.06)),
    "gamma": (2.2, 2.2, 2.1, 2.1, 1.7),
    "contrast": (1.05, 1.3, 0.95, 1.05, 0.95),
    "saturation": (1.0, 1.05, 1.0, 1.0, 1.0),
    "black_level": (0.02, 0.0, 0.02, 0.0, 0.04),
    "sharpening": (0.0, 1.0, 0.0, 0.2, 0.3),
    "noise": (0.02, 0.025, 0.03, 0.02, 0.055),
    "quality": (80, 85, 40, 90, 65),
}
"""Field of :class:`Centre` -> its values of A, B, C, D and E."""

CENTRES: Final[Mapping[str, Centre]] = MappingProxyType(
    {name: Centre(**{field: values[i] for field, values in _VALUES.items()}) for i, name in enumerate("ABCDE")}
)
"""The five virtual centres by name."""
