"""`python -m uertool`: the command line without the console script."""

from __future__ import annotations

from uertool.cli.app import run

if __name__ == "__main__":
    run()
