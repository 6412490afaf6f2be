"""The evaluators on real models, beside the peer on the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_st import SentenceTransformer, evaluation

PAIRS = [
    ("A plane is taking off.", "An air plane is taking off.", 5.0),
    ("A man is playing a large flute.", "A man is playing a flute.", 3.8),
    ("Three men are playing chess.", "Two men are playing chess.", 2.6),
    ("A man is smoking.", "A man is skating.", 0.5),
    ("A woman is writing.", "A woman is swimming.", 0.5),
    ("Some men are fighting.", "Two men are fighting.", 4.25),
    ("A dog runs over the wet grass towards its owner.", "A cat sleeps.", 0.2),
    ("Someone is feeding an animal.", "A man is feeding a mouse to a snake.", 2.0),
]
FIRST, SECOND, SCORES = (list(column) for column in zip(*PAIRS, strict=True))
FOUR = ["cosine", "dot", "euclidean", "manhattan"]


def all_of(module: Any) -> Any:
    queries, corpus = dict(enumerate(FIRST)), dict(enumerate(SECOND))
    relevant = {i: {i, (3 * i + 1) % 8} for i in queries}
    parts = [
        module.EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, similarity_fn_names=FOUR, name="sts"),
        module.EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, precision="ubinary", name="bits"),
        module.TripletEvaluator(FIRST, SECOND, SECOND[3:] + SECOND[:3], similarity_fn_names=FOUR, name="nli"),
        module.InformationRetrievalEvaluator(queries, corpus, relevant, corpus_chunk_size=3, name="ir"),
    ]
    return module.SequentialEvaluator(parts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("folder_name", ["tiny_folder", "minilm_folder"])
def test_figures_are_the_peers(folder_name, request, peer, peers, tmp_path) -> None:
    folder: Path = request.getfixturevalue(folder_name)
    ours = all_of(evaluation)(SentenceTransformer(folder, device="cpu"), str(tmp_path / "ours"))
    theirs = all_of(peers)(peer.SentenceTransformer(str(folder), device="cpu"), str(tmp_path / "theirs"))
    assert ours == pytest.approx(theirs, abs=1e-6)
    for path in (tmp_path / "theirs").iterdir():
        mine = (tmp_path / "ours" / path.name).read_text().splitlines()
        assert mine[0] == path.read_text().splitlines()[0]


def test_the_models_card_holds_the_figures(tiny_model) -> None:
    all_of(evaluation)(tiny_model)
    kept = [(scores.name, scores.dataset) for scores in tiny_model.model_card_data.scores]
    assert ("InformationRetrievalEvaluator", "ir") in kept
    assert ("TripletEvaluator", "nli") in kept
