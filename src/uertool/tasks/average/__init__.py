"""Averaging and merging of checkpoints."""
