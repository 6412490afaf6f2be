"""Hyperparameter search: spaces, objectives, studies and their records, as plain code; Ray Tune runs the trials."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "DrawnTrial": "ray_st.tune.drawn",
    "SearchOptions": "ray_st.tune.options",
    "Summary": "ray_st.tune.records",
    "TrialRecord": "ray_st.tune.records",
    "default_hp_space": "ray_st.tune.space",
    "hyperparameter_search": "ray_st.tune.search",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
