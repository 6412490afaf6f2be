"""The losses of rerankers, under their public path; see :mod:`ray_st.losses.scores`."""

from __future__ import annotations

from ray_st.losses import scores
from ray_st.util.lazy import lazy_module

_NAMES = dict.fromkeys(scores.__all__, "ray_st.losses.scores")

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
