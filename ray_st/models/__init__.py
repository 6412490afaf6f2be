"""The modules of a model, which turn texts into embeddings one after the other, and the model itself.

May import ``readers``, ``util`` and the values beside them; never ray. A new module gets a class in a file
here and a row in ``MODULES``.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

MODULES = {
    "Asym": "ray_st.models.asym",
    "BoW": "ray_st.models.bow",
    "CLIPModel": "ray_st.models.clip",
    "CNN": "ray_st.models.token_layers",
    "Dense": "ray_st.models.embedding_layers",
    "Dropout": "ray_st.models.embedding_layers",
    "LSTM": "ray_st.models.token_layers",
    "LayerNorm": "ray_st.models.embedding_layers",
    "Normalize": "ray_st.models.embedding_layers",
    "Pooling": "ray_st.models.pooling",
    "Router": "ray_st.models.asym",
    "StaticEmbedding": "ray_st.models.static_embedding",
    "Transformer": "ray_st.models.transformer",
    "WeightedLayerPooling": "ray_st.models.token_layers",
    "WordEmbeddings": "ray_st.models.word_embeddings",
    "WordWeights": "ray_st.models.token_layers",
}
"""The modules that a folder may name without being trusted, and where they are."""

_NAMES = {
    **MODULES,
    "Module": "ray_st.models.module",
    "SentenceTransformer": "ray_st.models.sentence_transformer",
    "TokenEncoder": "ray_st.models.tokens",
    "tokenizer": "ray_st.models.tokenizer",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
