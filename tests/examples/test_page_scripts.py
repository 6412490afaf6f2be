"""How scripts are taken from scanned pages."""

from __future__ import annotations

import pytest

from page_scripts import adapted, mended

SCAN = r"""
```
from sentence_transformers import (A,
B)
```
1. What is done
  first = A(  # a long
remark on it
    "x\_y")

## second = B()
"""


def test_broken_lines_are_mended() -> None:
    assert mended(SCAN).splitlines() == [
        "from sentence_transformers import (A,",
        "B)",
        "# 1. What is done",
        "first = A(  # a long remark on it",
        '  "x_y")',
        "second = B()",
    ]


def test_what_is_no_script_is_refused() -> None:
    with pytest.raises(SyntaxError):
        mended("first = (\n")


def test_only_the_import_changes_but_for_workers() -> None:
    script = "from sentence_transformers import x\ntrainer = SentenceTransformerTrainer(\n    model=model)\n"
    assert adapted(script, 1) == script.replace("sentence_transformers", "ray_st")
    assert "Trainer(scaling_config=scaling_config, \n    model=model)" in adapted(script, 2)
