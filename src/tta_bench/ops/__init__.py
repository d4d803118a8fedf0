"""Pure functions on tensors: views, gradients, random draws, preprocessing."""
