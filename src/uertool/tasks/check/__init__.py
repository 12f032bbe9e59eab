"""Inspection of checkpoints."""
