"""The evaluators of rerankers, under their public path; see :mod:`ray_st.evaluation.reranker`."""

from __future__ import annotations

from ray_st.evaluation import reranker
from ray_st.util.lazy import lazy_module

_NAMES = dict.fromkeys(reranker.__all__, "ray_st.evaluation.reranker")

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
