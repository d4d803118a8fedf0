"""Predictions of a user's own unlabelled images: which they are, what is written of each, and the way through them."""
