"""Readers: where the images of a data set lie and how its masks are coded, one file each."""
