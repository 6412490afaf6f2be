"""Batch samplers, under the name that the documentation promises."""

from ray_st.data.grouping import GroupByLabelBatchSampler, GroupByLengthBatchSampler
from ray_st.data.mixing import ProportionalBatchSampler, RoundRobinBatchSampler, WeightedBatchSampler
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder

__all__ = [
    "DefaultBatchSampler",
    "GroupByLabelBatchSampler",
    "GroupByLengthBatchSampler",
    "NoDuplicatesBatchSampler",
    "ProportionalBatchSampler",
    "RandomOrder",
    "RoundRobinBatchSampler",
    "WeightedBatchSampler",
]
