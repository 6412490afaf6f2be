"""Encoding, scoring, evaluating and mining on the cluster.

``encode_corpus``, ``score_corpus`` and ``evaluate_on_workers`` are importable from here.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "encode_corpus": "ray_st.runtime.encode.corpus",
    "evaluate_on_workers": "ray_st.runtime.encode.rank_evaluators",
    "score_corpus": "ray_st.runtime.encode.score_corpus",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)
