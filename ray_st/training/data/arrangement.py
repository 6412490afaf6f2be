"""From dataset specs to a sampler over all datasets, and a summary of the batches for the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_st.data import segments
from ray_st.data.column_spec import check_classes, check_full_batch, check_lengths, check_rows
from ray_st.data.dataset_stats import DatasetStats
from ray_st.data.faults import check_faults
from ray_st.data.mixing import Concatenated
from ray_st.data.plan import Indices, Plan
from ray_st.data.samplers import NoDuplicatesBatchSampler
from ray_st.data.window_sampler import WindowedBatchSampler
from ray_st.training.checkpoint.resume import FIRST_EPOCH
from ray_st.training.data.specs import DatasetSpec, LoaderSpec


@dataclass(frozen=True)
class Arrangement:
    """How the rows of datasets are sampled.

    Args:
        sampler: Batch sampler over the usable rows of all datasets, one dataset after the other.
        usable: Number of each usable row among all rows, or None if all are usable.
        epochs: Upper bound on the number of epochs to plan.
        resident: For each dataset, the number of blocks in a window; None for all.
        windows: For each dataset, the number of windows per epoch.
        crowded: For each dataset, the number of rows per epoch that share a text with too many others to fit
            into full batches.
    """

    sampler: Any
    usable: Indices | None
    epochs: int
    resident: tuple[int | None, ...]
    windows: tuple[int, ...]
    crowded: tuple[int, ...]


def check_stats(spec: LoaderSpec, stats: Mapping[str, DatasetStats]) -> None:
    """Raises for datasets that cannot be trained on.

    Reasons are unusable rows (unless they are skipped), too few rows (for a full batch, if partial ones are
    dropped), identical labels for a loss that learns from their differences, or list labels of different
    lengths.

    Raises:
        ValueError: Naming the dataset and what is wrong.
    """
    for name, dataset in spec.datasets.items():
        if not spec.skip_bad_rows:
            check_faults(stats[name].faults, stats[name].rows, dataset.label)
        check_rows(len(stats[name].keys), 1, dataset.label)
        if spec.drop_last:
            check_full_batch(len(stats[name].keys), dataset.batch_size, dataset.label)
        check_classes(dataset.encoding.columns, stats[name].keys.labels, dataset.label)
        # Without an encoder, a user's collator may accept lists of any length.
        if dataset.encoding.encoder is not None:
            check_lengths(dataset.encoding.columns, stats[name].label_lengths, dataset.label)
    label = next(iter(spec.datasets.values())).label if len(spec.datasets) == 1 else "all datasets together"
    check_rows(sum(len(described.keys) for described in stats.values()), spec.rows_needed, label)


def arrange(spec: LoaderSpec, stats: Mapping[str, DatasetStats]) -> Arrangement:
    """Makes the sampler over datasets.

    Args:
        spec: The datasets.
        stats: Statistics of their rows, by name.
    """
    samplers, resident = [], []
    for number, (name, dataset) in enumerate(spec.datasets.items()):
        window = segments.in_window(stats[name].rows, spec.window_rows)
        seed = spec.seed + number
        samplers.append(_sampler(spec, dataset, stats[name], window, seed))
        # A step may still need rows of the previous window; the blocks of two hold both.
        blocks = segments.most_blocks(stats[name].block_rows)
        resident.append(None if window is None else 2 * window * blocks)
    keys = [described.keys for described in stats.values()]
    mixed = samplers[0] if spec.mix is None else spec.mix(Concatenated(keys), samplers, spec.seed)
    starts = np.cumsum([0, *(described.rows for described in stats.values())])
    usable = np.concatenate([i.usable + start for i, start in zip(stats.values(), starts, strict=False)])
    return Arrangement(
        sampler=mixed,
        usable=None if len(usable) == starts[-1] else usable,
        epochs=spec.epochs(len(usable)),
        resident=tuple(resident),
        windows=tuple(s.windows if isinstance(s, WindowedBatchSampler) else 1 for s in samplers),
        crowded=tuple(s.crowded() if isinstance(s, NoDuplicatesBatchSampler) else 0 for s in samplers),
    )


def _sampler(
    spec: LoaderSpec, dataset: DatasetSpec, stats: DatasetStats, window: int | None, seed: int
) -> Any:
    if window is None:
        return dataset.make_sampler(stats.keys, seed)
    return WindowedBatchSampler(
        stats.keys,
        segments.usable_rows(stats.usable, stats.rows),
        window,
        dataset.make_sampler,
        dataset.batch_size,
        spec.drop_last,
        seed,
    )


def fingerprint(
    spec: LoaderSpec, stats: Mapping[str, DatasetStats], plan: Plan | None = None
) -> dict[str, Any]:
    """Everything the sample order depends on: if any of it differs, a run cannot resume from another one.

    Args:
        spec: The datasets.
        stats: Statistics of their rows, by name.
        plan: The batches of the first epoch. Their hash also reveals changes to a user's own sampler.
    """
    facts: dict[str, Any] = {"seed": spec.seed, "drop_last": spec.drop_last, **spec.settings}
    for name, dataset in spec.datasets.items():
        described, prefix = stats[name], f"{name}: " if name else ""
        facts[f"{prefix}rows"] = described.rows
        facts[f"{prefix}columns"] = list(dataset.encoding.columns.names)
        facts[f"{prefix}texts and labels"] = described.fingerprint
        facts[f"{prefix}global batch size"] = dataset.batch_size
        if tasks := {name: route.task for name, route in dataset.encoding.routes.items()}:
            facts[f"{prefix}tasks"] = tasks
        facts[f"{prefix}segments of a window"] = segments.in_window(described.rows, spec.window_rows)
        facts[f"{prefix}rows left out"] = len(described.faults)
        facts[f"{prefix}prompts"] = {
            column: text for column, text in dataset.encoding.prompts.items() if text
        }
    if plan is not None:
        facts["steps of an epoch"] = len(plan)
        facts[FIRST_EPOCH] = plan.digest()
    return facts


def summary(
    spec: LoaderSpec, stats: Mapping[str, DatasetStats], arrangement: Arrangement, plan: Plan
) -> list[str]:
    """A description of how a run will use its data, one fact per line.

    Args:
        spec: The datasets.
        stats: Statistics of their rows, by name.
        arrangement: How they are sampled.
        plan: The batches of the first epoch.
    """
    lines = []
    for number, (name, dataset) in enumerate(spec.datasets.items()):
        lines.append(_dataset_line(name, dataset, stats[name], arrangement.windows[number]))
        if arrangement.crowded[number]:
            lines.append(_crowded_line(name, dataset, stats[name], arrangement.crowded[number]))
    rows = sum(described.rows for described in stats.values())
    lines.append(
        f"an epoch: {len(plan):,} steps over {len(plan.rows):,} of {rows:,} rows{_padding(plan, stats)}"
    )
    return lines


def _dataset_line(name: str, dataset: DatasetSpec, described: DatasetStats, windows: int) -> str:
    keys = described.keys
    facts = [f"{len(keys):,} rows in {windows:,} window(s)", f"global batch {dataset.batch_size:,}"]
    if dataset.pool is not None:
        whole = " (gather_across_devices=True: from all)" * (dataset.pool < dataset.batch_size)
        facts.append(f"in-batch negatives from {dataset.pool:,} rows{whole}")
    facts.append(f"{_duplicate_share(keys.hashes):.1%} of rows share a text")
    if keys.tokens is not None and keys.tokens.any():
        facts.append(f"{keys.tokens.sum():,} tokens, {keys.tokens.mean():.0f} a row")
        facts.append(f"{described.truncated:,} rows truncated")
    if described.faults:
        facts.append(f"{len(described.faults):,} unusable rows left out")
    return f"{name or dataset.label}: " + ", ".join(facts)


def _crowded_line(name: str, dataset: DatasetSpec, described: DatasetStats, crowded: int) -> str:
    _, counts = np.unique(described.keys.hashes, return_counts=True)
    return (
        f"{name or dataset.label}: warning: {crowded:,} rows an epoch ({crowded / len(described.keys):.1%}) "
        f"share a text with too many others to fit full batches (one text occurs {counts.max():,} times): "
        'collisions="keep" has them in small batches at the end, "mask" in full ones without '
        'repeats among the negatives, "drop" leaves them out'
    )


def _padding(plan: Plan, stats: Mapping[str, DatasetStats]) -> str:
    """The share of padding if each batch were padded to its longest row.

    The actual share is lower, since losses sort rows by length and embed smaller chunks.
    """
    tokens = [described.keys.tokens for described in stats.values()]
    if len(stats) != 1 or tokens[0] is None or not tokens[0].any() or next(iter(stats.values())).faults:
        return ""
    padded = sum(int(tokens[0][rows].max()) * len(rows) for rows in map(plan.batch, range(len(plan))))
    real = int(tokens[0][plan.rows].sum())
    return f"; {1 - real / padded:.0%} padding if batches were padded whole"


def _duplicate_share(hashes: np.ndarray) -> float:
    if not hashes.size:
        return 0.0
    _, codes, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return float((counts[codes.reshape(hashes.shape)] > 1).any(axis=1).mean())
