"""The only room that imports Ray: clusters, object store, shards, workers."""

from __future__ import annotations

from ray_st.util.lazy import offer_module

# Documented in releases before the rooms.
offer_module("ray_st.runtime.corpus", "ray_st.runtime.encode.corpus")
offer_module("ray_st.runtime.evaluate", "ray_st.runtime.encode.rank_evaluators")
