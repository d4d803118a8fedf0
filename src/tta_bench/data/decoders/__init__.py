"""The file formats of images and masks, one file each."""
