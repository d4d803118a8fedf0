"""Test-time adaptation methods: one file each."""
