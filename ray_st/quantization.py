"""Quantized embeddings, and search among them."""

from __future__ import annotations

from ray_st.util.search.quantize import quantize_embeddings
from ray_st.util.search.quantized import semantic_search_faiss, semantic_search_usearch

__all__ = ["quantize_embeddings", "semantic_search_faiss", "semantic_search_usearch"]
