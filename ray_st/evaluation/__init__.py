"""Evaluators: each measures a model on labelled texts through ``model.encode`` alone."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "BinaryClassificationEvaluator": "ray_st.evaluation.binary_classification",
    "EmbeddingSimilarityEvaluator": "ray_st.evaluation.embedding_similarity",
    "InformationRetrievalEvaluator": "ray_st.evaluation.retrieval.information_retrieval",
    "LabelAccuracyEvaluator": "ray_st.evaluation.label_accuracy",
    "MSEEvaluator": "ray_st.evaluation.mse",
    "MSEEvaluatorFromDataFrame": "ray_st.evaluation.mse",
    "NanoBEIREvaluator": "ray_st.evaluation.retrieval.nano_beir",
    "ParaphraseMiningEvaluator": "ray_st.evaluation.paraphrase_mining",
    "ReciprocalRankFusionEvaluator": "ray_st.evaluation.reciprocal_rank_fusion",
    "RerankingEvaluator": "ray_st.evaluation.reranking",
    "SentenceEvaluator": "ray_st.evaluation.sentence_evaluator",
    "SequentialEvaluator": "ray_st.evaluation.sequential",
    "SimilarityFunction": "ray_st.similarity_functions",
    "TranslationEvaluator": "ray_st.evaluation.translation",
    "TripletEvaluator": "ray_st.evaluation.triplet_accuracy",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
