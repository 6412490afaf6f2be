"""What tests of searches share: rows, and a trainer whose trials take a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ray_st import SentenceTransformer, SentenceTransformerTrainer, losses
from ray_st.models.tokens import TokenEncoder
from ray_st.training_args import SentenceTransformerTrainingArguments

WORDS = ["good", "bad", "weather", "man", "eats", "pasta", "sunny", "text"]
ANCHORS = [f"{WORDS[i % 8]} {WORDS[i // 8]} a" for i in range(64)]
POSITIVES = [f"{WORDS[i // 8]} the {WORDS[i % 8]}" for i in range(64)]


def make_trainer(folder: Path, model_folder: Path, **options: Any) -> SentenceTransformerTrainer:
    """Trains 64 pairs in 12 steps."""

    def model_init() -> SentenceTransformer:
        return SentenceTransformer(str(model_folder), device="cpu")

    def loss_init(model: Any) -> Any:
        return losses.MultipleNegativesRankingLoss(model)

    arguments = {"num_train_epochs": 3, "save_strategy": "no", **options.pop("arguments", {})}
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=16, report_to=[], **arguments
    )
    data = Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES})
    return SentenceTransformerTrainer(
        args=args, train_dataset=data, eval_dataset=data, model_init=model_init, loss=loss_init, **options
    )


@dataclass(frozen=True)
class CountingEncoder(TokenEncoder):
    """Writes down the number of texts of each call, in whatever process."""

    log: str = ""

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        with open(self.log, "a") as stream:
            stream.write(f"{len(texts)}\n")
        return super().__call__(texts)

    def state(self) -> str:
        return TokenEncoder(self.tokenizer, self.max_seq_length, self.do_lower_case, self.chat).state()


class CountingModel(SentenceTransformer):
    """A model whose rows are encoded by a :class:`CountingEncoder`."""

    def __init__(self, folder: str, log: str) -> None:
        super().__init__(folder, device="cpu")
        self.log = log

    def token_encoder(self) -> TokenEncoder:
        own = self[0].token_encoder()
        return CountingEncoder(own.tokenizer, own.max_seq_length, own.do_lower_case, own.chat, log=self.log)


def encoded_texts(log: Path) -> int:
    """How many texts the models of a log have encoded."""
    return sum(map(int, log.read_text().split())) if log.exists() else 0
