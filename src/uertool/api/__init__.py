"""The public Python interface: a typed function for every command, and a loaded `Model`.

A function is decorated with `as_keywords`, so that its settings are keywords, and listed in
`uertool.PUBLIC`. `python tools/python_stub.py` writes its signature for type checkers.
"""

from __future__ import annotations
