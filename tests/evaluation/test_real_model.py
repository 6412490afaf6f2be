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


LABELS = [int(score > 2.2) for score in SCORES]
LANGUAGES = [{"a": first, "b": second} for first, second, _ in PAIRS]
ROLES = [
    {"query": first, "positive": [second], "negative": SECOND[i + 1 :] + SECOND[:i]}
    for i, (first, second) in enumerate(zip(FIRST, SECOND, strict=True))
]


def all_of(module: Any, teacher: Any) -> Any:
    queries, corpus = dict(enumerate(FIRST)), dict(enumerate(SECOND))
    relevant = {i: {i, (3 * i + 1) % 8} for i in queries}
    parts = [
        module.EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, similarity_fn_names=FOUR, name="sts"),
        # Without the pair whose embedding has a component of 4e-8: rounding decides its sign, and so the bit.
        module.EmbeddingSimilarityEvaluator(
            FIRST[3:], SECOND[3:], SCORES[3:], precision="ubinary", name="bits"
        ),
        module.TripletEvaluator(FIRST, SECOND, SECOND[3:] + SECOND[:3], similarity_fn_names=FOUR, name="nli"),
        module.InformationRetrievalEvaluator(queries, corpus, relevant, corpus_chunk_size=3, name="ir"),
        module.BinaryClassificationEvaluator(FIRST, SECOND, LABELS, similarity_fn_names=FOUR, name="same"),
        module.BinaryClassificationEvaluator(FIRST, SECOND, LABELS, truncate_dim=8, name="same-8"),
        module.RerankingEvaluator(ROLES, at_k=3, name="rank"),
        module.RerankingEvaluator(ROLES, truncate_dim=8, use_batched_encoding=False, name="rank-8"),
        module.MSEEvaluator(FIRST, SECOND, teacher, name="mse"),
        module.MSEEvaluator(FIRST, SECOND, teacher, truncate_dim=8, name="mse-8"),
        module.MSEEvaluatorFromDataFrame(LANGUAGES, teacher, [("a", "b"), ("b", "a")], name="table"),
        module.TranslationEvaluator(FIRST, SECOND, name="match"),
        module.TranslationEvaluator(FIRST, SECOND, truncate_dim=8, name="match-8"),
    ]
    return module.SequentialEvaluator(parts)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("folder_name", ["tiny_folder", "minilm_folder"])
def test_metrics_are_the_peers(folder_name, request, peer, peers, tmp_path) -> None:
    folder: Path = request.getfixturevalue(folder_name)
    mine, other = (
        SentenceTransformer(folder, device="cpu"),
        peer.SentenceTransformer(str(folder), device="cpu"),
    )
    ours = all_of(evaluation, mine)(mine, str(tmp_path / "ours"))
    theirs = all_of(peers, other)(other, str(tmp_path / "theirs"))
    assert ours == pytest.approx(theirs, abs=1e-6)
    for path in (tmp_path / "theirs").iterdir():
        mine = (tmp_path / "ours" / path.name).read_text().splitlines()
        assert mine[0] == path.read_text().splitlines()[0]


def test_the_models_card_holds_the_metrics(tiny_model) -> None:
    all_of(evaluation, tiny_model)(tiny_model)
    kept = [(scores.name, scores.dataset) for scores in tiny_model.model_card_data.scores]
    assert ("InformationRetrievalEvaluator", "ir") in kept
    assert ("TripletEvaluator", "nli") in kept
    assert ("RerankingEvaluator", "rank") in kept
