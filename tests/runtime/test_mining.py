"""Mining on Ray finds what one process finds."""

from __future__ import annotations

from typing import Any

import pytest

WORDS = ["the", "man", "eats", "pasta", "good", "bad", "weather", "sunny", "document", "text", "query"]
TEXTS = [f"{one} {two}" for one in WORDS for two in WORDS if one < two]


@pytest.mark.ray
def test_two_actors_find_what_one_process_finds(tiny_model: Any, cluster: None) -> None:
    from datasets import Dataset

    from ray_st.runtime.encode.cluster_mining import ClusterSearch
    from ray_st.util import mine_hard_negatives

    data = Dataset.from_dict({"query": [*TEXTS[:20], TEXTS[0]], "answer": [*TEXTS[30:50], TEXTS[7]]})
    options: dict[str, Any] = {
        "corpus": TEXTS,
        "verbose": False,
        "output_scores": True,
        "relative_margin": 0.001,
    }
    expected = mine_hard_negatives(data, tiny_model, **options)
    search = ClusterSearch(["cpu", "cpu"], texts_at_once=9)
    found = mine_hard_negatives(data, tiny_model, search=search, **options)
    assert len(found) == len(expected) > 20
    for name in ("query", "answer", "negative"):
        assert found[name][:] == expected[name][:]
    for ours, theirs in zip(found["scores"], expected["scores"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
