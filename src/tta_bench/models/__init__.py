"""Segmentation networks, normalisation policies, the adaptable network and checkpoints."""
