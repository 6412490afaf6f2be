"""What docs/trainer.md shows runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROWS

PAGE = Path(__file__).parents[2] / "docs" / "trainer.md"


def test_the_page_runs(
    make: Any, on_cluster: None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, subclass, loop, sharded = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    exec(script.replace("all-MiniLM-L6-v2", str(tiny_folder)) + subclass, names)
    assert (tmp_path / "outputs/pairs/final/modules.json").is_file()
    trainer = make(kind=names["Smoother"], eval_dataset=ROWS)
    assert trainer.evaluate()["eval_loss"] < make(eval_dataset=ROWS).evaluate()["eval_loss"]
    exec(loop.partition("\n\n\nTorchTrainer(")[0], names)
    assert callable(names["train_loop_per_worker"])
    exec(sharded, names)
    assert names["args"].fsdp
