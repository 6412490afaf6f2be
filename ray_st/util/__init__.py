"""Functions on embeddings: similarity, search, mining, normalisation, truncation, moving to a device."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_MODULES = {
    "ray_st.mining.hard_negatives": ("mine_hard_negatives",),
    "ray_st.util.http": ("http_get",),
    "ray_st.util.packages": ("is_training_available",),
    "ray_st.util.screen": ("LoggingHandler",),
    "ray_st.util.search.communities": ("community_detection",),
    "ray_st.util.search.paraphrases": ("paraphrase_mining", "paraphrase_mining_embeddings"),
    "ray_st.util.search.semantic": ("information_retrieval", "semantic_search"),
    "ray_st.util.similarity": (
        *("cos_sim", "pytorch_cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"),
        *("pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim", "pairwise_manhattan_sim"),
        "pairwise_angle_sim",
    ),
    "ray_st.util.tensors": ("batch_to_device", "normalize_embeddings", "truncate_embeddings"),
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
