"""Losses: each a function of the embeddings of one step, on one base that embeds, sorts, chunks and gathers."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "CoSENTLoss": "ray_st.losses.cosent",
    "Columns": "ray_st.losses.base",
    "CosineSimilarityLoss": "ray_st.losses.cosine_similarity",
    "Gather": "ray_st.losses.base",
    "Loss": "ray_st.losses.base",
    "MultipleNegativesRankingLoss": "ray_st.losses.multiple_negatives_ranking",
    "TripletDistanceMetric": "ray_st.losses.triplet",
    "TripletLoss": "ray_st.losses.triplet",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
