"""Sweeps over cells."""
