"""Small functions on embeddings: similarities, normalising, truncating, moving to a device."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_TENSORS = "ray_st.util.tensors"
_SIMILARITY = "ray_st.util.similarity"

_NAMES = {
    "batch_to_device": _TENSORS,
    "cos_sim": _SIMILARITY,
    "dot_score": _SIMILARITY,
    "euclidean_sim": _SIMILARITY,
    "manhattan_sim": _SIMILARITY,
    "normalize_embeddings": _TENSORS,
    "pairwise_angle_sim": _SIMILARITY,
    "pairwise_cos_sim": _SIMILARITY,
    "pairwise_dot_score": _SIMILARITY,
    "pairwise_euclidean_sim": _SIMILARITY,
    "pairwise_manhattan_sim": _SIMILARITY,
    "pytorch_cos_sim": _SIMILARITY,
    "truncate_embeddings": _TENSORS,
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
