"""Batch samplers, under the name that the documentation promises."""

from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler

__all__ = ["DefaultBatchSampler", "NoDuplicatesBatchSampler"]
