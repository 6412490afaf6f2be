"""Training arguments: those of transformers, of ray_st, and of earlier releases.

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
