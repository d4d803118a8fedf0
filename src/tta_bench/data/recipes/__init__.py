"""Recipes: how a release, as it is downloaded, becomes domains that ``data=fundus`` and ``data=folder`` read."""
