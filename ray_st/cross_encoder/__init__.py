"""Rerankers for users: the model, its trainer, losses and evaluators.

A floor above the rooms that they are made in: the model is in ``models/reranker``, losses are in
``losses/scores``, evaluators in ``evaluation/reranker``; only the trainer and its arguments live here.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module, offer_module
from ray_st.util.unserved import UNSERVED

_NAMES = {
    "CrossEncoder": "ray_st.models.reranker.cross_encoder",
    "CrossEncoderModelCardData": "ray_st.models.card.model_card_data",
    "CrossEncoderTrainer": "ray_st.cross_encoder.reranker_trainer",
    "CrossEncoderTrainingArguments": "ray_st.cross_encoder.reranker_args",
    "evaluation": "ray_st.cross_encoder.evaluation",
    "losses": "ray_st.cross_encoder.losses",
}
_MODULES = {
    "model": "ray_st.models.reranker.cross_encoder",
    "model_card": "ray_st.models.card.model_card_data",
    "trainer": "ray_st.cross_encoder.reranker_trainer",
    "training_args": "ray_st.cross_encoder.reranker_args",
}
"""Where later releases have what is here, and where that is."""

_UNSERVED = {name: UNSERVED[name] for name in ("CrossEncoderDataCollator",)}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True, unserved=_UNSERVED)
for _name, _holder in _MODULES.items():
    offer_module(f"{__name__}.{_name}", _holder)
