"""Writes docs/compatibility.md: ``PYTHONPATH=tests python -m compatibility > docs/compatibility.md``."""

from __future__ import annotations

import sys

from compatibility.page import page

if __name__ == "__main__":
    sys.stdout.write(page())
