"""One photograph with its annotation: from the eye through the camera to pixels."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tta_bench.data.synthetic.camera import add_noise, compress, develop, expose, optics
from tta_bench.data.synthetic.centres import CENTRES, VERSION
from tta_bench.data.synthetic.eye import disc_coordinates, fundus, sample_eye
from tta_bench.data.synthetic.vessels import add_vessels

MIN_SIZE: Final = 32
"""Smallest image width in pixels in which disc and cup can still be told apart."""


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

    eye = sample_eye(parameters, eye_rng)
    disc, cup, angle = disc_coordinates(eye, size)
    light = fundus(eye, disc, cup, angle, texture_rng)
    light = add_vessels(light, eye, parameters, vessel_rng)
    light = optics(light, parameters, optics_rng)
    light = expose(light, parameters, exposure_rng)
    light = add_noise(light, parameters, noise_rng)
    picture = compress(develop(light, parameters), parameters.quality)

    mask = np.zeros((size, size), np.uint8)
    mask[disc <= 1] = 1
    mask[cup <= 1] = 2
    return np.ascontiguousarray(picture.transpose(1, 2, 0)), mask
