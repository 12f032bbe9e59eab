"""Decoding: caches, filters, sampling, beams, stopping, readable text."""

from __future__ import annotations

from uertool.tasks.generation.api import generate

__all__ = ["generate"]
