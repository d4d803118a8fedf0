"""Label-free objectives: pure functions, one file each."""
