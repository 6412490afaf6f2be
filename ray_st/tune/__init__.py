"""Hyperparameter search: what users call and hold.

``search`` is the front door, ``checked_search`` with ``search_checks`` what is checked before any trial
starts, ``space_facts`` what the default space is chosen by, ``search_phases`` what is run, ``identity``
what must stay the same for a search to continue, ``trial_factory`` how hyperparameters become a trial,
``trial_runner`` how trials run on the cluster, ``confirmation`` how the best ones are trained again,
``found_run`` what a search returns, ``applied`` how a trainer gets its hyperparameters.
Spaces, objectives and records are in :mod:`ray_st.study`, the trials on Ray Tune in
:mod:`ray_st.runtime.tune`, which is imported only when a search runs.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "Confirmed": "ray_st.study.confirmed",
    "DrawnTrial": "ray_st.study.drawn_trial",
    "Finalist": "ray_st.study.confirmed",
    "FoundRun": "ray_st.tune.found_run",
    "SearchOptions": "ray_st.study.search_options",
    "Summary": "ray_st.study.search_summary",
    "TrialRecord": "ray_st.study.trial_record",
    "default_hp_space": "ray_st.study.space",
    "default_space": "ray_st.tune.space_facts",
    "hyperparameter_search": "ray_st.tune.search",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
