"""Evaluators of rerankers: each measures a model on labelled pairs through ``model.predict`` alone.

May import what ``ray_st.evaluation`` may. A new evaluator is a file here with a row in the table below,
and its cases in ``tests/evaluation/reranker/test_every_evaluator.py``.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "CEBinaryAccuracyEvaluator": "ray_st.evaluation.reranker.older_names",
    "CEBinaryClassificationEvaluator": "ray_st.evaluation.reranker.older_names",
    "CECorrelationEvaluator": "ray_st.evaluation.reranker.older_names",
    "CEF1Evaluator": "ray_st.evaluation.reranker.older_names",
    "CERerankingEvaluator": "ray_st.evaluation.reranker.older_names",
    "CESoftmaxAccuracyEvaluator": "ray_st.evaluation.reranker.older_names",
    "CrossEncoderClassificationEvaluator": "ray_st.evaluation.reranker.pair_classification",
    "CrossEncoderCorrelationEvaluator": "ray_st.evaluation.reranker.pair_correlation",
    "CrossEncoderNanoBEIREvaluator": "ray_st.evaluation.reranker.nano_beir_reranking",
    "CrossEncoderRerankingEvaluator": "ray_st.evaluation.reranker.pair_reranking",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
