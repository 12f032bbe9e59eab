"""uertool: the command-line toolkit for Chinese pre-trained models."""

from __future__ import annotations

__version__ = "0.1.0"
