"""Batch samplers, under the name that the documentation promises."""

from ray_st.data.grouping import GroupByLabelBatchSampler, GroupByLengthBatchSampler
from ray_st.data.mixing import (
    MultiDatasetDefaultBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    WeightedBatchSampler,
)
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder
from ray_st.training_args import BatchSamplers, MultiDatasetBatchSamplers

__all__ = [
    "BatchSamplers",
    "DefaultBatchSampler",
    "GroupByLabelBatchSampler",
    "GroupByLengthBatchSampler",
    "MultiDatasetBatchSamplers",
    "MultiDatasetDefaultBatchSampler",
    "NoDuplicatesBatchSampler",
    "ProportionalBatchSampler",
    "RandomOrder",
    "RoundRobinBatchSampler",
    "WeightedBatchSampler",
]
