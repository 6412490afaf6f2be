"""The pieces of a card: statistics, log, facts, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_st.models.card.model_card_data import PATH, SECRET, publishable
from ray_st.models.card.render import table
from ray_st.models.card.run_facts import Cluster, duration
from ray_st.models.card.tables import LOSS, MOST_ROWS, column_statistics, log_rows, seconds_spent


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


@pytest.mark.parametrize(
    ("values", "kind", "details"),
    [
        (["a b", "a b c d", None], "string", "min 2 tokens, mean 3.00 tokens, max 4 tokens"),
        ([0, 1, 1, 2], "int", "0: 25.0%, 1: 50.0%, 2: 25.0%"),
        (list(range(20)), "int", "min 0, mean 9.50, max 19"),
        ([0.5, 1.0], "float", "min 0.50, mean 0.75, max 1.00"),
        ([[1.0, 2.0]], "list", "min 2 elements, mean 2.00 elements, max 2 elements"),
        ([None], "none", ""),
        ([b"x"], "bytes", ""),
    ],
)
def test_statistics(values: list[Any], kind: str, details: str) -> None:
    assert column_statistics("c", values, words) == {"Column": "c", "Type": kind, "Details": details}


def test_characters_where_there_are_no_tokens() -> None:
    assert column_statistics("c", ["abc"], None)["Details"].startswith("min 3 characters")


HISTORY = [
    {"loss": 0.5, "learning_rate": 1e-5, "epoch": 0.5, "step": 5},
    {"eval_loss": 0.4, "eval_runtime": 2.0, "eval_samples_per_second": 9.0, "epoch": 1.0, "step": 10},
    {"eval_dev_ndcg": 0.7, "eval_dev_mrr": 0.6, "eval_runtime": 1.5, "epoch": 1.0, "step": 10},
    {"train_runtime": 60.0, "train_loss": 0.4, "epoch": 1.0, "step": 10},
]


def test_the_log_has_a_row_for_each_step() -> None:
    first, second = log_rows(HISTORY, ["dev_ndcg"])
    assert first == {"Epoch": 0.5, "Step": 5, LOSS: 0.5}
    assert second == {"Epoch": 1.0, "Step": 10, "eval_loss": 0.4, "eval_dev_ndcg": 0.7}
    assert "eval_dev_mrr" in log_rows(HISTORY, [])[1]
    assert seconds_spent(HISTORY) == {"Training": 60.0, "Evaluation": 3.5}
    assert seconds_spent(HISTORY[:2]) == {}


def test_a_long_log_keeps_evaluations() -> None:
    history = [{"loss": 0.1, "step": step} for step in range(1000)] + [{"eval_loss": 0.1, "step": 777}]
    rows = log_rows(history, [])
    assert len(rows) <= MOST_ROWS
    assert any("eval_loss" in row for row in rows)


def test_places_and_secrets_are_left_out() -> None:
    token = "hf_" + "canary" * 4
    settings = {
        "output_dir": "out",
        "hub_token": "short",
        "note": token,
        "optim_args": f"key={token}",
        "tracking": "https://user:password@host/path",
        "nested": {"api_key": "x", "cache": str(Path.home() / "cache"), "windows": "C:\\Users\\me"},
        "list": ["~/models", "kept", 1],
        "learning_rate": 1e-5,
    }
    assert publishable(settings) == {
        "note": SECRET,
        "optim_args": SECRET,
        "tracking": SECRET,
        "nested": {"cache": PATH, "windows": PATH},
        "list": [PATH, "kept", 1],
        "learning_rate": 1e-5,
    }


def test_cells_cannot_break_the_page() -> None:
    assert table(["a"], [["x|y\n</details>"]]).splitlines()[-1] == "| x\\|y &lt;/details> |"
    assert table(["a"], [["x" * 1000]]).endswith(" … |")


def test_cluster_and_times() -> None:
    facts = Cluster(3, 2, ("H100", "H100", "CPU"), "2.60").facts()
    assert facts == {"Workers": "3", "Nodes": "2", "Devices": "2 × H100, 1 × CPU", "Ray": "2.60"}
    assert [duration(seconds) for seconds in (1.25, 60, 3599, 7500)] == [
        "1.2 s",
        "1 min",
        "60 min",
        "2 h 5 min",
    ]
