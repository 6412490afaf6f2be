"""Door to embeddings with fewer bits."""

from __future__ import annotations

from ray_st.util.quantize import quantize_embeddings

__all__ = ["quantize_embeddings"]
