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
    script, negatives, debugging, elastic, subclass, router, quantized, loop, sharded = re.findall(
        r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    exec(script.replace("all-MiniLM-L6-v2", str(tiny_folder)) + subclass, names)
    assert (tmp_path / "outputs/pairs/final/modules.json").is_file()
    trainer = make(kind=names["Smoother"], eval_dataset=ROWS)
    assert trainer.evaluate()["eval_loss"] < make(eval_dataset=ROWS).evaluate()["eval_loss"]
    exec(negatives, names)
    assert names["dataset"].column_names == ["query", "pos", "neg_1", "neg_2", "scores"]
    data = PAGE.parents[1] / "examples" / "data"
    exec(debugging.replace("all-MiniLM-L6-v2", str(tiny_folder)).replace("examples/data", str(data)), names)
    assert names["trainer"].scaling_config.num_workers == 0
    exec(elastic.replace("all-MiniLM-L6-v2", str(tiny_folder)), names)
    assert names["trainer"].scaling_config.num_workers == (1, 4)
    exec(loop.partition("\n\n\nTorchTrainer(")[0], names)
    assert callable(names["train_loop_per_worker"])
    exec(router, names)
    assert names["args"].router_mapping
    compile(quantized, "page", "exec")  # what it opens is on the Hub, and needs bitsandbytes
    exec(sharded, names)
    assert names["args"].fsdp
