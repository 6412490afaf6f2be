"""From dataset specs to a sampler over all datasets, and a summary of the batches for the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ray_st.data import segments
from ray_st.data.batch_source import Planner
from ray_st.data.column_spec import check_classes, check_full_batch, check_lengths, check_rows
from ray_st.data.dataset_stats import DatasetStats, fingerprint_of
from ray_st.data.faults import check_faults
from ray_st.data.mixing import Concatenated
from ray_st.data.plan import Indices, Piece, Plan
from ray_st.data.samplers import NoDuplicatesBatchSampler
from ray_st.data.stream_planner import Lane, StreamPlanner
from ray_st.data.window_sampler import KnownRows, SegmentRows, WindowedBatchSampler
from ray_st.training.checkpoint.resume import FIRST_EPOCH
from ray_st.training.data.specs import DatasetSpec, LoaderSpec


@dataclass(frozen=True)
class Arrangement:
    """How the rows of datasets are sampled.

    Args:
        planner: Plans the epochs.
        rows: For each dataset, the number of its rows.
        windows: For each dataset, the number of segments of each window of the first epoch.
        resident: For each dataset, the number of segments that a step's rows may lie in; None for all.
        crowded: For each dataset, the number of rows per epoch that share a text with too many others to fit
            into full batches.
    """

    planner: Planner | StreamPlanner
    rows: tuple[int, ...]
    windows: tuple[list[int], ...]
    resident: tuple[int | None, ...]
    crowded: tuple[int, ...]


class StreamedRows(SegmentRows, Protocol):
    """Rows of a dataset that become known segment by segment."""

    def ahead(self, chosen: Indices) -> None:
        """Hints that these segments are needed next."""


def check_counts(spec: LoaderSpec, rows: Mapping[str, int]) -> None:
    """Raises for datasets with too few rows: for a full batch if partial ones are dropped, or for a run.

    Args:
        spec: The datasets.
        rows: The number of rows of each, by name.

    Raises:
        ValueError: Naming the dataset and what is wrong.
    """
    for name, dataset in spec.datasets.items():
        check_rows(rows[name], 1, dataset.label)
        if spec.drop_last:
            check_full_batch(rows[name], dataset.batch_size, dataset.label)
    label = next(iter(spec.datasets.values())).label if len(spec.datasets) == 1 else "all datasets together"
    check_rows(sum(rows.values()), spec.rows_needed, label)


def check_stats(spec: LoaderSpec, stats: Mapping[str, DatasetStats]) -> None:
    """Raises for datasets that cannot be trained on; see :func:`check_contents` and :func:`check_counts`.

    Args:
        spec: The datasets.
        stats: Statistics of their rows, by name.

    Raises:
        ValueError: Naming the dataset and what is wrong.
    """
    check_contents(spec, stats)
    check_counts(spec, {name: len(described.keys) for name, described in stats.items()})


def check_contents(spec: LoaderSpec, stats: Mapping[str, DatasetStats]) -> None:
    """Raises for rows that cannot be trained on.

    Reasons are unusable rows (unless they are skipped), identical labels for a loss that learns from their
    differences, or list labels of different lengths.

    Args:
        spec: The datasets.
        stats: Statistics of the rows of those that are known, by name.

    Raises:
        ValueError: Naming the dataset and what is wrong.
    """
    for name, described in stats.items():
        dataset = spec.datasets[name]
        if not spec.skip_bad_rows:
            check_faults(described.faults, described.rows, dataset.label)
        check_classes(dataset.encoding.columns, described.keys.labels, dataset.label)
        # Without an encoder, a user's collator may accept lists of any length.
        if dataset.encoding.encoder is not None:
            check_lengths(dataset.encoding.columns, described.label_lengths, dataset.label)


def window_sizes(spec: LoaderSpec, rows: int, growing: bool) -> list[int]:
    """How many segments each window of a dataset has in the first epoch.

    Args:
        spec: The datasets.
        rows: Rows of the one.
        growing: Whether the first windows are small.
    """
    most = segments.in_window(rows, spec.window_rows)
    return segments.window_sizes(len(segments.rows_of(rows)), most, growing)


def plans_windows(spec: LoaderSpec, rows: Mapping[str, int]) -> bool:
    """Whether windows are planned one by one, so that a run begins before later ones are encoded.

    It follows from the number of rows alone, so that the order of samples does not depend on where they are.

    Args:
        spec: The datasets.
        rows: The number of rows of each dataset, by name.
    """
    return spec.plans_windows and any(
        len(window_sizes(spec, number, growing=True)) > 1 for number in rows.values()
    )


def arrange(spec: LoaderSpec, stats: Mapping[str, DatasetStats]) -> Arrangement:
    """Makes the planner of datasets whose rows are all known.

    Args:
        spec: The datasets.
        stats: Statistics of their rows, by name.
    """
    if plans_windows(spec, {name: described.rows for name, described in stats.items()}):
        return arrange_windows(spec, {name: _known(described) for name, described in stats.items()})
    samplers = [
        _sampler(spec, dataset, stats[name], spec.seed + number)
        for number, (name, dataset) in enumerate(spec.datasets.items())
    ]
    keys = [described.keys for described in stats.values()]
    mixed = samplers[0] if spec.mix is None else spec.mix(Concatenated(keys), samplers, spec.seed)
    rows = tuple(described.rows for described in stats.values())
    starts = np.cumsum([0, *rows])
    usable = np.concatenate([i.usable + start for i, start in zip(stats.values(), starts, strict=False)])
    numbers = None if len(usable) == starts[-1] else usable
    crowded = tuple(s.crowded() if isinstance(s, NoDuplicatesBatchSampler) else 0 for s in samplers)
    planner = Planner(mixed, spec.epochs(len(usable)), numbers)
    return _arrangement(spec, planner, rows, crowded, growing=False)


def arrange_windows(spec: LoaderSpec, rows: Mapping[str, KnownRows | StreamedRows]) -> Arrangement:
    """Makes the planner of datasets whose windows are planned one by one.

    Args:
        spec: The datasets.
        rows: Their rows, by name.
    """
    most = None if spec.window_rows is None else max(spec.window_rows // segments.ROWS, 1)
    samplers = [
        WindowedBatchSampler(
            rows[name],
            most,
            dataset.make_sampler,
            dataset.batch_size,
            spec.drop_last,
            spec.seed + number,
            streams=True,
        )
        for number, (name, dataset) in enumerate(spec.datasets.items())
    ]
    counts = tuple(sum(given.segment_rows) for given in rows.values())
    mixed = None
    if spec.mix is not None:
        mixed = spec.mix(Concatenated([range(count) for count in counts]), samplers, spec.seed)
    starts = np.cumsum([0, *counts]).tolist()
    lanes = [
        Lane(sampler, start, _nothing if isinstance(given, KnownRows) else given.ahead)
        for sampler, start, given in zip(samplers, starts, rows.values(), strict=False)
    ]
    planner = StreamPlanner(lanes, mixed, spec.epochs(sum(counts)), spec.steps_needed)
    return _arrangement(spec, planner, counts, (0,) * len(counts), growing=True)


def _arrangement(
    spec: LoaderSpec,
    planner: Planner | StreamPlanner,
    rows: tuple[int, ...],
    crowded: tuple[int, ...],
    growing: bool,
) -> Arrangement:
    windows = tuple(window_sizes(spec, count, growing) for count in rows)
    # A step may still need rows of the previous window.
    resident = tuple(2 * max(sizes) if len(sizes) > 1 else None for sizes in windows)
    return Arrangement(planner, rows, windows, resident, crowded)


def _nothing(chosen: Indices) -> None:
    """For rows that are all here already."""


def _known(stats: DatasetStats) -> KnownRows:
    numbers = None if len(stats.usable) == stats.rows else stats.usable
    return KnownRows(stats.keys, segments.rows_of(stats.rows), numbers)


def _sampler(spec: LoaderSpec, dataset: DatasetSpec, stats: DatasetStats, seed: int) -> Any:
    window = segments.in_window(stats.rows, spec.window_rows)
    if window is None:
        return dataset.make_sampler(stats.keys, seed)
    return WindowedBatchSampler(
        KnownRows(stats.keys, segments.usable_rows(stats.usable, stats.rows)),
        window,
        dataset.make_sampler,
        dataset.batch_size,
        spec.drop_last,
        seed,
    )


def fingerprint(
    spec: LoaderSpec,
    stats: Mapping[str, DatasetStats],
    arrangement: Arrangement,
    piece: Piece | None = None,
) -> dict[str, Any]:
    """Everything the sample order depends on: if any of it differs, a run cannot resume from another one.

    Where windows are planned one by one, later rows may be unknown yet: those of the first window stand for
    all.

    Args:
        spec: The datasets.
        stats: Statistics of their rows, by name, or of those of the first window.
        arrangement: How they are sampled.
        piece: The first batches. Their hash also reveals changes to a user's own sampler.
    """
    facts: dict[str, Any] = {"seed": spec.seed, "drop_last": spec.drop_last, **spec.settings}
    for number, (name, dataset) in enumerate(spec.datasets.items()):
        described, prefix = stats[name], f"{name}: " if name else ""
        sizes = arrangement.windows[number]
        facts[f"{prefix}rows"] = arrangement.rows[number]
        facts[f"{prefix}columns"] = list(dataset.encoding.columns.names)
        facts[f"{prefix}texts and labels"] = _texts_and_labels(described, arrangement, number)
        facts[f"{prefix}global batch size"] = dataset.batch_size
        if tasks := {name: route.task for name, route in dataset.encoding.routes.items()}:
            facts[f"{prefix}tasks"] = tasks
        facts[f"{prefix}segments of a window"] = max(sizes) if len(sizes) > 1 else None
        if not isinstance(arrangement.planner, StreamPlanner):
            facts[f"{prefix}rows left out"] = len(described.faults)
        facts[f"{prefix}prompts"] = {
            column: text for column, text in dataset.encoding.prompts.items() if text
        }
    if piece is not None:
        facts["steps of an epoch"] = arrangement.planner.steps
        facts[FIRST_EPOCH] = piece.plan.digest()
    return facts


def _texts_and_labels(stats: DatasetStats, arrangement: Arrangement, number: int) -> str:
    planner = arrangement.planner
    if not isinstance(planner, StreamPlanner) or stats.rows < arrangement.rows[number]:
        return stats.fingerprint
    return fingerprint_of([stats.fingerprints[one] for one in planner.first_segments(number)])


def summary(
    spec: LoaderSpec, stats: Mapping[str, DatasetStats], arrangement: Arrangement, piece: Piece
) -> list[str]:
    """A description of how a run will use its data, one fact per line.

    Args:
        spec: The datasets.
        stats: Statistics of their rows, by name, or of those of the first window.
        arrangement: How they are sampled.
        piece: The first batches.
    """
    lines = []
    for number, (name, dataset) in enumerate(spec.datasets.items()):
        lines.append(_dataset_line(name, dataset, stats[name], arrangement, number))
        if arrangement.crowded[number]:
            lines.append(_crowded_line(name, dataset, stats[name], arrangement.crowded[number]))
    rows, steps = sum(arrangement.rows), arrangement.planner.steps
    if isinstance(arrangement.planner, StreamPlanner):
        lines.append(f"an epoch: {steps:,} steps over {rows:,} rows, planned window by window")
    else:
        used = f"{len(piece.plan.rows):,} of {rows:,} rows{_padding(piece.plan, stats)}"
        lines.append(f"an epoch: {steps:,} steps over {used}")
    return lines


def _dataset_line(
    name: str, dataset: DatasetSpec, described: DatasetStats, arrangement: Arrangement, number: int
) -> str:
    keys, rows = described.keys, arrangement.rows[number]
    sampled = described.rows < rows
    whole = rows if sampled else len(keys)
    facts = [f"{whole:,} rows in {len(arrangement.windows[number]):,} window(s)"]
    facts.append(f"global batch {dataset.batch_size:,}")
    if dataset.pool is not None:
        gathered = " (gather_across_devices=True: from all)" * (dataset.pool < dataset.batch_size)
        facts.append(f"in-batch negatives from {dataset.pool:,} rows{gathered}")
    if sampled:
        facts.append(f"of the {described.rows:,} rows of the first window")
    facts.append(f"{_duplicate_share(keys.hashes):.1%} of rows share a text")
    if keys.tokens is not None and keys.tokens.any():
        total = "" if sampled else f"{keys.tokens.sum():,} tokens, "
        facts.append(f"{total}{keys.tokens.mean():.0f}{' tokens' * sampled} a row")
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
