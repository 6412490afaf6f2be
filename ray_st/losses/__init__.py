"""Losses: functions of one step's embeddings, on one base that embeds, sorts, chunks and gathers."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "AdaptiveLayerLoss": "ray_st.losses.adaptive_layer",
    "AnglELoss": "ray_st.losses.cosent",
    "BatchAllTripletLoss": "ray_st.losses.batch_triplet",
    "BatchHardSoftMarginTripletLoss": "ray_st.losses.batch_triplet",
    "BatchHardTripletLoss": "ray_st.losses.batch_triplet",
    "BatchHardTripletLossDistanceFunction": "ray_st.losses.batch_triplet",
    "BatchSemiHardTripletLoss": "ray_st.losses.batch_triplet",
    "CachedGISTEmbedLoss": "ray_st.losses.gist",
    "CachedMultipleNegativesRankingLoss": "ray_st.losses.multiple_negatives_ranking",
    "CachedMultipleNegativesSymmetricRankingLoss": "ray_st.losses.multiple_negatives_ranking",
    "CoSENTLoss": "ray_st.losses.cosent",
    "Columns": "ray_st.losses.columns",
    "ContrastiveLoss": "ray_st.losses.contrastive",
    "ContrastiveTensionDataLoader": "ray_st.losses.contrastive_tension",
    "ContrastiveTensionLoss": "ray_st.losses.contrastive_tension",
    "ContrastiveTensionLossInBatchNegatives": "ray_st.losses.contrastive_tension",
    "CosineSimilarityLoss": "ray_st.losses.cosine_similarity",
    "DenoisingAutoEncoderLoss": "ray_st.losses.denoising",
    "DistillKLDivLoss": "ray_st.losses.distillation",
    "EmbedDistillLoss": "ray_st.losses.distillation",
    "GISTEmbedLoss": "ray_st.losses.gist",
    "Gather": "ray_st.losses.columns",
    "GlobalOrthogonalRegularizationLoss": "ray_st.losses.orthogonal",
    "Loss": "ray_st.losses.loss",
    "MSELoss": "ray_st.losses.distillation",
    "MarginMSELoss": "ray_st.losses.distillation",
    "Matryoshka2dLoss": "ray_st.losses.matryoshka",
    "MatryoshkaLoss": "ray_st.losses.matryoshka",
    "MegaBatchMarginLoss": "ray_st.losses.mega_batch_margin",
    "Modifier": "ray_st.losses.modifier",
    "MultipleNegativesRankingLoss": "ray_st.losses.multiple_negatives_ranking",
    "MultipleNegativesSymmetricRankingLoss": "ray_st.losses.multiple_negatives_ranking",
    "OnlineContrastiveLoss": "ray_st.losses.contrastive",
    "SiameseDistanceMetric": "ray_st.losses.contrastive",
    "SoftmaxLoss": "ray_st.losses.softmax",
    "TripletDistanceMetric": "ray_st.losses.triplet",
    "TripletLoss": "ray_st.losses.triplet",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
