"""Evaluators: each measures a model on labelled texts through ``model.encode`` alone."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "EmbeddingSimilarityEvaluator": "ray_st.evaluation.embedding_similarity",
    "InformationRetrievalEvaluator": "ray_st.evaluation.information_retrieval",
    "SentenceEvaluator": "ray_st.evaluation.base",
    "SequentialEvaluator": "ray_st.evaluation.sequential",
    "SimilarityFunction": "ray_st.similarity_functions",
    "TripletEvaluator": "ray_st.evaluation.triplet",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
