"""Losses over scores of pairs, for rerankers: functions of one step's logits, on the base of all losses.

A new loss is one file here, one line in the table below and one case in ``tests/losses/scores``. Nothing here
imports models; ``ray_st.cross_encoder.losses`` is the public door.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "ADRMSELoss": "ray_st.losses.scores.approximate_ranks",
    "BaseWeightingScheme": "ray_st.losses.scores.lambda_weights",
    "BinaryCrossEntropyLoss": "ray_st.losses.scores.pointwise",
    "CachedMultipleNegativesRankingLoss": "ray_st.losses.scores.in_batch_pairs",
    "CrossEntropyLoss": "ray_st.losses.scores.pair_classes",
    "LambdaLoss": "ray_st.losses.scores.lambda_loss",
    "LambdaRankScheme": "ray_st.losses.scores.lambda_weights",
    "ListLoss": "ray_st.losses.scores.lists",
    "ListMLELoss": "ray_st.losses.scores.list_mle",
    "ListNetLoss": "ray_st.losses.scores.list_net",
    "MSELoss": "ray_st.losses.scores.pointwise",
    "MarginMSELoss": "ray_st.losses.scores.margins",
    "MultipleNegativesRankingLoss": "ray_st.losses.scores.in_batch_pairs",
    "NDCGLoss1Scheme": "ray_st.losses.scores.lambda_weights",
    "NDCGLoss2PPScheme": "ray_st.losses.scores.lambda_weights",
    "NDCGLoss2Scheme": "ray_st.losses.scores.lambda_weights",
    "NoWeightingScheme": "ray_st.losses.scores.lambda_weights",
    "PListMLELambdaWeight": "ray_st.losses.scores.list_mle",
    "PListMLELoss": "ray_st.losses.scores.list_mle",
    "Pairing": "ray_st.losses.scores.pairing",
    "RankNetLoss": "ray_st.losses.scores.lambda_loss",
    "ReducedLoss": "ray_st.losses.scores.pointwise",
    "ScoreLoss": "ray_st.losses.scores.score_loss",
    "Scores": "ray_st.losses.scores.scores",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
