"""Hyperparameter search: spaces, objectives, studies and their records, as plain code; Ray Tune runs the trials."""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "DrawnTrial": "ray_st.study.drawn_trial",
    "SearchOptions": "ray_st.study.search_options",
    "Summary": "ray_st.study.journal",
    "TrialRecord": "ray_st.study.journal",
    "default_hp_space": "ray_st.study.space",
    "hyperparameter_search": "ray_st.tune.search",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
