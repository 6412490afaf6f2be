"""The training arguments of rerankers."""

from __future__ import annotations

from dataclasses import dataclass

from ray_st.training_args import SentenceTransformerTrainingArguments


@dataclass
class CrossEncoderTrainingArguments(SentenceTransformerTrainingArguments):
    """Training arguments of a reranker: those of embedders, documented there.

    ``prompts`` is one text, or one for each dataset: it is put before the query of each pair.
    """
