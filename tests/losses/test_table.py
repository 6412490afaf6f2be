from __future__ import annotations

from pathlib import Path

from loss_table import page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_losses_say() -> None:
    written = (DOCS / "losses.md").read_text(encoding="utf-8")
    assert written == page(), "run: python docs/loss_table.py > docs/losses.md"
