"""The parts of a model: modules that turn texts into embeddings, one after the other."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "Asym": "ray_st.models.asym",
    "BoW": "ray_st.models.bow",
    "CLIPModel": "ray_st.models.clip",
    "CNN": "ray_st.models.cnn",
    "Dense": "ray_st.models.dense",
    "Dropout": "ray_st.models.dropout",
    "LSTM": "ray_st.models.lstm",
    "LayerNorm": "ray_st.models.layer_norm",
    "Module": "ray_st.models.module",
    "Normalize": "ray_st.models.normalize",
    "Pooling": "ray_st.models.pooling",
    "Router": "ray_st.models.asym",
    "SentenceTransformer": "ray_st.models.sentence_transformer",
    "StaticEmbedding": "ray_st.models.static_embedding",
    "TokenEncoder": "ray_st.models.tokens",
    "Transformer": "ray_st.models.transformer",
    "WeightedLayerPooling": "ray_st.models.weighted_layer_pooling",
    "WordEmbeddings": "ray_st.models.word_embeddings",
    "WordWeights": "ray_st.models.word_weights",
    "tokenizer": "ray_st.models.tokenizer",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
