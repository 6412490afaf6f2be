"""ray_st: train sentence embedding models on Ray.

A script written for the documented sentence-embedding trainer runs with the import changed; with Ray's
``scaling_config`` it runs on a cluster. Nothing heavy is loaded until one of the names below is used.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module
from ray_st.util.ports import provide

_NAMES = {
    "InputExample": "ray_st.readers.input_example",
    "SentenceTransformer": "ray_st.models.sentence_transformer",
    "SentenceTransformerModelCardData": "ray_st.model_card",
    "SentenceTransformerTrainer": "ray_st.trainer",
    "SentenceTransformerTrainingArguments": "ray_st.training_args",
    "SimilarityFunction": "ray_st.similarity_functions",
    "__version__": "ray_st._version",
    "datasets": "ray_st.datasets",
    "evaluation": "ray_st.evaluation",
    "losses": "ray_st.losses",
    "models": "ray_st.models",
    "readers": "ray_st.readers",
    "util": "ray_st.util",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)

# Models ask for these; what they need lies above them.
provide("encode_pool", "ray_st.runtime.encode_pool", "start_pool")
provide("fit", "ray_st.legacy.fit", "fit")
provide("old_fit", "ray_st.legacy.loop", "old_fit")
provide("search", "ray_st.tune.search", "hyperparameter_search")  # trainers ask for it
