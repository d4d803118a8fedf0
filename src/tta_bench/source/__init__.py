"""Training of the source model."""
