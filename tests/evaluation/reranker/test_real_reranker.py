"""Evaluators on this package's reranker: the peer's metrics, and a team's to the last bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from peer_figures import close
from ray_st import CrossEncoder
from ray_st.evaluation import reranker
from ray_st.util.team import in_team
from reranker_folders import save_classifier, text_pairs
from simulated_team import together

PAIRS = text_pairs(40)
OTHERS = [document for _, document in text_pairs(30, seed=1)]
SAMPLES = [
    {"query": PAIRS[i][0], "positive": [PAIRS[i][1]], "documents": [*OTHERS[i : i + 8], PAIRS[i][1]]}
    for i in range(15)
]
KINDS = {
    "classes": ("CrossEncoderClassificationEvaluator", (PAIRS, [i % 3 for i in range(40)]), 3),
    "binary": ("CrossEncoderClassificationEvaluator", (PAIRS, [i % 2 for i in range(40)]), 1),
    "correlation": ("CrossEncoderCorrelationEvaluator", (PAIRS, [i * 7 % 11 for i in range(40)]), 1),
    "reranking": ("CrossEncoderRerankingEvaluator", (SAMPLES,), 1),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def entry(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def folder(entry: Any, tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "model", "bert", num_labels=entry[2])


def test_metrics_are_the_peers(entry: Any, folder: Path, peer: Any, peers: Any) -> None:
    name, data, _ = entry
    found = getattr(reranker, name)(*data, batch_size=4)(CrossEncoder(folder, device="cpu"))
    theirs = peer.CrossEncoder(str(folder), device="cpu")
    assert found == close(getattr(peers, name)(*data, batch_size=4, show_progress_bar=False)(theirs))


@pytest.mark.parametrize("size", [2, 3])
def test_a_team_gets_the_metrics_of_one_process(entry: Any, folder: Path, size: int) -> None:
    name, data, _ = entry
    model, evaluator = CrossEncoder(folder, device="cpu"), getattr(reranker, name)(*data, batch_size=4)
    expected = evaluator(model)

    def task(team: Any) -> dict[str, float]:
        own, mine = copy.deepcopy(model), copy.deepcopy(evaluator)
        with in_team(own, team):
            return mine(own)

    assert together(size, task) == [expected] * size


def test_the_card_shows_the_gain(tmp_path: Path) -> None:
    model = CrossEncoder(save_classifier(tmp_path / "model", "bert"), device="cpu")
    found = reranker.CrossEncoderRerankingEvaluator(SAMPLES, name="dev")(model)
    model.save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text()
    gain = found["dev_map"] - found["dev_base_map"]
    assert f"| dev_map | {found['dev_map']:.4f} ({gain:+.4f}) |" in text
