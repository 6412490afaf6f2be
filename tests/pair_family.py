"""A second kind of model, as small as one can be: pairs of texts in, one logit out. Nothing of it is in the package."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_st.model_trainer import ModelTrainer
from ray_st.training.family import Family

WORDS, WIDTH = 64, 8


class PairTokens:
    """Turns texts into the numbers of their words; those of the second text of a pair are other ones."""

    max_seq_length = 32

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [
            np.array([1 + zlib.crc32(word.encode()) % WORDS for word in text.split()], dtype=np.int32)
            for text in texts
        ]

    def join(self, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> dict[str, Tensor]:
        joined = [np.concatenate([one, other + WORDS]) for one, other in zip(queries, documents, strict=True)]
        rows = [torch.from_numpy(row).long() for row in joined]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"input_ids": padded, "attention_mask": (padded > 0).long()}

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
        return self.join(self([one for one, _ in pairs]), self([other for _, other in pairs]))


class PairModel(nn.Module):
    """A logit for each pair, from a bag of its words."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(1 + 2 * WORDS, WIDTH, padding_idx=0)
        self.hidden, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.tokens = PairTokens()

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        bag = self.words(features["input_ids"]).sum(1)
        logits: Tensor = self.head(torch.tanh(self.hidden(bag)))[:, 0]
        return logits

    @torch.no_grad()
    def predict(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        return torch.sigmoid(self(self.tokens.pairs(pairs)))

    def save(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "config.json").write_text(json.dumps({"kind": "pairs"}))
        save_file(self.state_dict(), str(Path(folder, "model.safetensors")))

    def load(self, folder: str) -> None:
        self.load_state_dict(load_file(str(Path(folder, "model.safetensors"))))


def open_pairs(folder: str) -> PairModel:
    model = PairModel()
    model.load(folder)
    return model


class PairLoss(nn.Module):
    """Binary cross-entropy of the logit of the only pair."""

    def __init__(self, model: PairModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, texts: Sequence[Sequence[str]], labels: Tensor) -> Tensor:
        pairs = list(zip(*texts, strict=True))
        logits = self.model(self.model.tokens.pairs(pairs))
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())


class PairAccuracy:
    """The share of pairs that the model gets right."""

    def __init__(self, pairs: Sequence[tuple[str, str]], labels: Sequence[int]) -> None:
        self.pairs, self.labels = list(pairs), list(labels)

    def __call__(self, model: PairModel, **when: Any) -> dict[str, float]:
        right = (model.predict(self.pairs) > 0.5).long() == torch.tensor(self.labels)
        return {"accuracy": float(right.float().mean())}


PAIRS = Family(
    name="PairModel",
    encoder=lambda model: model.tokens,
    tokenize=lambda model: model.tokens.pairs,
    output=lambda model, features: (model(features[0]),),
    default_loss=PairLoss,
    save=PairModel.save,
    load_weights=PairModel.load,
    open=open_pairs,
    card=lambda model: None,
    takes_pairs=True,
)


class PairTrainer(ModelTrainer):
    """The trainer of the second kind."""

    family = PAIRS
