"""Door to the data from which a model card is written."""

from __future__ import annotations

from ray_st.models.card_data import SentenceTransformerModelCardData

__all__ = ["SentenceTransformerModelCardData"]
