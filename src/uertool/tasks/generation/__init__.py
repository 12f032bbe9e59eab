"""Decoding: caches, filters, sampling, beams, stopping, readable text."""
