from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from module_helpers import DIMENSION, TEXTS, VOCABULARY, stirred, there_and_back, word_embeddings
from ray_st.models import Pooling, WordWeights

WORDS = ["pad", "Sun", "rain", "fog"]


def test_each_token_by_its_weight() -> None:
    module = WordWeights(WORDS, {"sun": 2.0, "rain": 0.5, "snow": 9.0}, unknown_word_weight=3.0)
    features = {
        "input_ids": torch.tensor([[1, 2, 3], [1, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
        "token_embeddings": torch.ones(2, 3, 2),
    }
    found = module(features)
    assert found["token_embeddings"][..., 0].tolist() == [[2.0, 0.5, 3.0], [2.0, 0.0, 0.0]]
    assert found["token_weights_sum"].tolist() == [5.5, 2.0]


def test_a_vocabulary_that_is_not_the_tokenizers() -> None:
    features = {"input_ids": torch.tensor([[4]]), "attention_mask": torch.ones(1, 1)}
    with pytest.raises(ValueError, match="has 4 words in vocab, but there is a token with id 4"):
        WordWeights(WORDS, {})(features)


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean", "max"])
def test_to_the_peer_and_back(mode: str, peer: Any, tmp_path: Path) -> None:
    weights = WordWeights(VOCABULARY, {"weather": 2.0, "pasta": 0.5}, 1.5)
    some = [
        text for text in TEXTS if text != "nothing known"
    ]  # the peer's greatest of no token is minus infinity
    there_and_back([word_embeddings(), weights, Pooling(DIMENSION, "max")], peer, tmp_path, some)


def test_trained_weights_are_kept(tmp_path: Path) -> None:
    module = stirred(WordWeights(WORDS, {}))
    module.save(tmp_path)
    torch.testing.assert_close(WordWeights.load(tmp_path).state_dict(), module.state_dict())
