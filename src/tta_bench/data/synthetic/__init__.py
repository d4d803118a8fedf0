"""Procedural, disc-centred colour fundus photographs of five virtual centres A to E.

An image is made the way a photograph is: a *scene* (pigment, choroid, vessels, optic disc), *optics*
(defocus, veiling glare, illumination), a *sensor* (spectral response, exposure, noise, tone curve) and
*compression* (quantised 8x8 cosine blocks). A centre is a population and a camera, hence a distribution
over the parameters of these stages; the numbers are in ``centres.py`` and nowhere else.

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
