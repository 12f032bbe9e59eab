"""Bytes on disk to canonical tensors and back."""
