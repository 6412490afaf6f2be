"""ray_st: train sentence embedding models and rerankers on Ray.

A script written for the documented sentence-embedding trainer runs with the import changed; with Ray's
``scaling_config`` it runs on a cluster. Nothing heavy is loaded until one of the names below is used.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module, offer_module, provide
from ray_st.util.unserved import UNSERVED, explain_unserved_modules

_NAMES = {
    "CrossEncoder": "ray_st.models.reranker.cross_encoder",
    "CrossEncoderModelCardData": "ray_st.models.card.model_card_data",
    "CrossEncoderTrainer": "ray_st.cross_encoder.reranker_trainer",
    "CrossEncoderTrainingArguments": "ray_st.cross_encoder.reranker_args",
    "DefaultBatchSampler": "ray_st.data.samplers",
    "InputExample": "ray_st.readers.input_example",
    "LoggingHandler": "ray_st.util.screen",
    "MultiDatasetDefaultBatchSampler": "ray_st.data.mixing",
    "ParallelSentencesDataset": "ray_st.datasets.parallel_sentences",
    "SentenceTransformer": "ray_st.models.sentence_transformer",
    "SentenceTransformerModelCardData": "ray_st.models.card.model_card_data",
    "SentenceTransformerTrainer": "ray_st.trainer",
    "SentenceTransformerTrainingArguments": "ray_st.training_args",
    "SentencesDataset": "ray_st.datasets.sentences",
    "SimilarityFunction": "ray_st.similarity_functions",
    "__version__": "ray_st._version",
    "backend": "ray_st.backend",
    "cross_encoder": "ray_st.cross_encoder",
    "datasets": "ray_st.datasets",
    "evaluation": "ray_st.evaluation",
    "export_dynamic_quantized_onnx_model": "ray_st.models.exported.file_export",
    "export_optimized_onnx_model": "ray_st.models.exported.file_export",
    "export_static_quantized_openvino_model": "ray_st.models.exported.file_export",
    "losses": "ray_st.losses",
    "mine_hard_negatives": "ray_st.mining.hard_negatives",
    "model_card": "ray_st.model_card",
    "models": "ray_st.models",
    "quantization": "ray_st.quantization",
    "quantize_embeddings": "ray_st.util.search.quantize",
    "readers": "ray_st.readers",
    "sampler": "ray_st.sampler",
    "similarity_functions": "ray_st.similarity_functions",
    "trainer": "ray_st.trainer",
    "training_args": "ray_st.training_args",
    "util": "ray_st.util",
}

_LATER_MODULES = {
    "base": "ray_st",
    "base.evaluation": "ray_st.evaluation",
    "base.modules": "ray_st.models",
    "base.sampler": "ray_st.sampler",
    "sentence_transformer": "ray_st",
    "sentence_transformer.datasets": "ray_st.datasets",
    "sentence_transformer.evaluation": "ray_st.evaluation",
    "sentence_transformer.losses": "ray_st.losses",
    "sentence_transformer.model": "ray_st.models.sentence_transformer",
    "sentence_transformer.model_card": "ray_st.model_card",
    "sentence_transformer.modules": "ray_st.models",
    "sentence_transformer.readers": "ray_st.readers",
    "sentence_transformer.trainer": "ray_st.trainer",
    "sentence_transformer.training_args": "ray_st.training_args",
}
"""Where later releases have what is here, and where that is."""

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True, unserved=UNSERVED)
for _name, _holder in _LATER_MODULES.items():
    offer_module(f"{__name__}.{_name}", _holder)
explain_unserved_modules()

# Models ask for these; what they need lies above them.
provide("apply_hyperparameters", "ray_st.tune.applied", "apply_hyperparameters")
provide("encode_pool", "ray_st.runtime.encode.encode_pool", "EncodePool")
provide("fit", "ray_st.legacy.fit", "fit")
provide("fit_reranker", "ray_st.legacy.reranker_fit", "fit_reranker")
provide("old_fit", "ray_st.legacy.plain_loop", "old_fit")
provide("search", "ray_st.tune.search", "hyperparameter_search")  # trainers ask for it
