"""Functions on embeddings: similarity, search, mining, normalisation, truncation, moving to a device."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_TENSORS = "ray_st.util.tensors"
_SIMILARITY = "ray_st.util.similarity"
_SEARCH = "ray_st.util.search.semantic"
_PARAPHRASES = "ray_st.util.search.paraphrases"

_NAMES = {
    "LoggingHandler": "ray_st.util.screen",
    "batch_to_device": _TENSORS,
    "community_detection": "ray_st.util.search.communities",
    "cos_sim": _SIMILARITY,
    "dot_score": _SIMILARITY,
    "euclidean_sim": _SIMILARITY,
    "http_get": "ray_st.util.http",
    "information_retrieval": _SEARCH,
    "is_training_available": "ray_st.util.packages",
    "manhattan_sim": _SIMILARITY,
    "mine_hard_negatives": "ray_st.mining.mine",
    "normalize_embeddings": _TENSORS,
    "pairwise_angle_sim": _SIMILARITY,
    "pairwise_cos_sim": _SIMILARITY,
    "pairwise_dot_score": _SIMILARITY,
    "pairwise_euclidean_sim": _SIMILARITY,
    "pairwise_manhattan_sim": _SIMILARITY,
    "paraphrase_mining": _PARAPHRASES,
    "paraphrase_mining_embeddings": _PARAPHRASES,
    "pytorch_cos_sim": _SIMILARITY,
    "semantic_search": _SEARCH,
    "truncate_embeddings": _TENSORS,
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
