"""Samplers and the search: names of their pages."""

from __future__ import annotations

from compatibility import signatures
from compatibility.table import Row, Section

ENUMERATIONS = {
    "BatchSamplers": {
        "BATCH_SAMPLER": "batch_sampler",
        "NO_DUPLICATES": "no_duplicates",
        "NO_DUPLICATES_HASHED": "no_duplicates_hashed",
        "GROUP_BY_LABEL": "group_by_label",
    },
    "MultiDatasetBatchSamplers": {"ROUND_ROBIN": "round_robin", "PROPORTIONAL": "proportional"},
}
"""Members and values, by enumeration of ``ray_st.training_args``."""

SAMPLERS = """\
DefaultBatchSampler(sampler, batch_size, drop_last)
NoDuplicatesBatchSampler(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
GroupByLabelBatchSampler(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
MultiDatasetDefaultBatchSampler(dataset, batch_samplers, generator, seed)
RoundRobinBatchSampler(dataset, batch_samplers, generator, seed)
ProportionalBatchSampler(dataset, batch_samplers, generator, seed)
"""
"""The classes of ``ray_st.sampler``, with their parameters."""

SEARCH = "hp_space model_init loss compute_objective n_trials direction backend hp_name **kwargs BestRun"

_NOTES = {
    "BatchSamplers.NO_DUPLICATES": ("same", "across all workers; `collisions` says what happens to rows that fit into no batch"),
    "BatchSamplers.NO_DUPLICATES_HASHED": ("same", "the same as `NO_DUPLICATES`: texts are always compared by hashes"),
    "BatchSamplers.GROUP_BY_LABEL": ("same", "at least two rows of each label, across all workers"),
    "DefaultBatchSampler": ("same", "also the base of custom samplers: a subclass receives the dataset, `valid_label_columns`, `generator` and `seed`"),
    "MultiDatasetDefaultBatchSampler": ("same", "the base of custom samplers over several datasets"),
    "NoDuplicatesBatchSampler": ("same", "in linear time; the batches differ from the peer's"),
    "GroupByLabelBatchSampler": ("same", "the batches differ from the peer's"),
    "ProportionalBatchSampler": ("same", "the order of datasets differs from the peer's"),
    "hp_space": ("same", "in Optuna's define-by-run form; also a dict of Ray Tune domains"),
    "model_init": ("same", "called with each trial"),
    "loss": ("same", "a function of the model, called for each trial; a module is copied"),
    "compute_objective": ("same", "also the name of a metric; several values for several objectives"),
    "n_trials": ("same", ""),
    "direction": ("same", "a list for several objectives"),
    "backend": ("differs", "`ray` by default (page: `optuna`), or `optuna`, the same search, one trial at a time by default; `wandb` and `sigopt` raise an error"),
    "hp_name": ("same", ""),
    "**kwargs": ("differs", "those of `ray_st.tune.SearchOptions`; equivalent names of Optuna and Ray Tune are accepted, others raise an error"),
    "BestRun": ("same", "also `model` and `confirmed`; `run_summary` holds the table of trials; a list for several objectives"),
}  # fmt: skip


def sections() -> list[Section]:
    """The samplers and the search."""
    members = [f"{kind}.{member}" for kind, values in ENUMERATIONS.items() for member in values]
    rows = [Row(name, *_NOTES.get(name, ("same", ""))) for name in members]
    rows += signatures.rows(signatures.read(SAMPLERS), _NOTES)
    search = [Row(name, *_NOTES[name]) for name in SEARCH.split()]
    return [
        Section("Samplers", "In `ray_st.training_args` and `ray_st.sampler`; batches are those of all workers.", rows),
        Section("Search", "Arguments and result of `hyperparameter_search`; see [Search](search.md).", search),
    ]  # fmt: skip
