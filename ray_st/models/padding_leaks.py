"""Encoders whose vectors depend on padding, whatever the attention mask says."""

from __future__ import annotations

from functools import cache

from ray_st.util.events import notes

LEAKS = {
    "canine": "convolutions",
    "convbert": "convolutions",
    "fnet": "Fourier transforms",
    "funnel": "pooling",
    "mobilebert": "embeddings of three neighbouring tokens",
    "nystromformer": "landmarks and convolutions",
    "yoso": "hashes and convolutions",
}
"""What mixes padding into the vectors of tokens, by ``model_type``."""


@cache
def note_leak(kind: str) -> None:
    """Says, once in a process, that embeddings of a kind of model depend on the other texts of a batch.

    Args:
        kind: The ``model_type``.
    """
    if kind in LEAKS:
        notes.info(
            f"{kind} models: {LEAKS[kind]} mix padding into the vectors of texts, so that an embedding "
            "depends on the longest text of its batch. Encode with batch_size=1 for embeddings that do not."
        )
