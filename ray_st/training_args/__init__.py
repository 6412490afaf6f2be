"""Training arguments: transformers' own, ours, and those that earlier releases had.

May import ``util`` and transformers only. A new argument is a field of
:class:`SentenceTransformerTrainingArguments` in ``arguments.py``.
"""

from ray_st.training_args.arguments import (
    BadRows,
    BatchSamplers,
    EvalOn,
    MultiDatasetBatchSamplers,
    SentenceTransformerTrainingArguments,
)

__all__ = [
    "BadRows",
    "BatchSamplers",
    "EvalOn",
    "MultiDatasetBatchSamplers",
    "SentenceTransformerTrainingArguments",
]
