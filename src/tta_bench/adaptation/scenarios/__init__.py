"""Scenarios, one file each: which images form a stream, and when the state starts afresh."""
