"""Door to the data from which a model card is written, and to the callback that notes a run in it."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "SentenceTransformerModelCardCallback": "ray_st.training.callbacks.run_description",
    "SentenceTransformerModelCardData": "ray_st.models.card.model_card_data",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
