"""Domains, readers and streams of images."""
