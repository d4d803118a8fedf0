"""The precisions of arithmetic, as names: free of torch, so that a configuration can be read without it."""

from typing import Literal

Precision = Literal["f32", "tf32", "bf16"]
"""Of the arithmetic: 32 bits; convolutions and matrix products of a GPU in TF32, which keeps 10 of 23 bits of the
mantissa; or the network's activations and weights in bfloat16, which keeps 7, with statistics, parameters that are
adapted, losses and optimiser in 32 bits."""
