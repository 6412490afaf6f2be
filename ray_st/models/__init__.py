"""The parts of a model: modules that turn texts into embeddings, one after the other."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "Dense": "ray_st.models.dense",
    "Module": "ray_st.models.module",
    "Normalize": "ray_st.models.normalize",
    "Pooling": "ray_st.models.pooling",
    "SentenceTransformer": "ray_st.models.sentence_transformer",
    "TokenEncoder": "ray_st.models.tokens",
    "Transformer": "ray_st.models.transformer",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
