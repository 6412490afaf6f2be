"""Models without an encoder of transformers learn: three steps in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer

from module_helpers import DIMENSION, TEXTS, VOCABULARY, word_embeddings
from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.models import CNN, LSTM, BoW, Dense, Pooling, StaticEmbedding
from ray_st.training.data.local_source import local_context

ROWS = [
    (f"{VOCABULARY[1 + i % 5]} {VOCABULARY[6 + i % 5]} {i}", f"{VOCABULARY[6 + i % 5]} red word {i}")
    for i in range(12)
]

MAKE: dict[str, Callable[[Any], list[Any]]] = {
    "static": lambda tokenizer: [StaticEmbedding(tokenizer, embedding_dim=8)],
    "words": lambda _: [word_embeddings(update=True), Pooling(DIMENSION)],
    "frozen words": lambda _: [word_embeddings(), Pooling(DIMENSION), Dense(DIMENSION, 4)],
    "convolutions": lambda _: [word_embeddings(), CNN(DIMENSION, 4, [1, 3]), Pooling(8)],
    "recurrent": lambda _: [word_embeddings(), LSTM(DIMENSION, 4), Pooling(8)],
    "bag": lambda _: [BoW(VOCABULARY), Dense(len(VOCABULARY), 4)],
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_three_steps(name: str, cached: bool, tiny_encoder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_encoder / "tokenizer.json"))
    model = SentenceTransformer(modules=MAKE[name](tokenizer), device="cpu")
    before = {key: value.clone() for key, value in model.named_parameters()}
    loss = (
        losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
        if cached
        else losses.MultipleNegativesRankingLoss(model)
    )
    args = SentenceTransformerTrainingArguments(
        str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=0.1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = Dataset.from_dict({"anchor": [a for a, _ in ROWS], "positive": [b for _, b in ROWS]})
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    loop = trainer.spec().rebuild(local_context(trainer.data.train_specs(1), tmp_path))
    loop.train()
    found = [entry["loss"] for entry in loop.state.log_history if "loss" in entry]
    assert len(found) == 3
    assert torch.tensor(found).isfinite().all()
    for key, value in loop.model.named_parameters():
        assert value.requires_grad != torch.equal(value.detach().cpu(), before[key]), key
    assert loop.model.encode(TEXTS).shape == (len(TEXTS), model.get_embedding_dimension())
