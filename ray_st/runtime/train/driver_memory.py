"""Whether the driver, often a process on a small head node, has the memory for what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ray_st.data import segments
from ray_st.data.sources.row_counts import known_rows, read_anywhere
from ray_st.runtime.cluster.pickled import bytes_beside_files
from ray_st.training.data.specs import LoaderSpec
from ray_st.util.events import notes
from ray_st.util.free_memory import as_gib, available_memory

ROW_BYTES = 200
"""Bytes of a row's keys, statistics and place in the plan, at the peak.

Measured: 140 to 190 with two texts, 220 with five.
"""


@dataclass(frozen=True)
class DriverNeed:
    """Memory that a driver needs beside what it holds already.

    Args:
        least: Bytes that it certainly needs.
        usual: Bytes that it will probably need.
        reason: What for.
    """

    least: int
    usual: int
    reason: str


def driver_need(rows: Iterable[tuple[int, int]], sent: int, whole: Sequence[str] = ()) -> DriverNeed:
    """What a run needs on the driver.

    Args:
        rows: For each dataset, the number of its rows that this process plans, and of its text columns.
        sent: Bytes of weights that are sent to the workers. They fill this node's object store, which writes
            to disk what does not fit.
        whole: Which of them are planned whole, and why, in words.
    """
    datasets = list(rows)
    total = sum(count for count, _ in datasets)
    # Held at the same time, in eight bytes each: a hash of each text, the row's tokens, number and place.
    least = sum(count * 8 * (texts + 3) for count, texts in datasets)
    planned = f", planned at once ({'; '.join(whole)})," if whole else ""
    reasons = (
        [f"keys and order of {total:,} rows{planned} take about {ROW_BYTES} bytes each"] if total else []
    )
    if sent:
        reasons.append(f"{as_gib(sent)} of weights that lie in no file are sent to the workers")
    return DriverNeed(least, total * ROW_BYTES + sent, " and ".join(reasons))


def check_need(need: DriverNeed, available: int) -> None:
    """Refuses a run that cannot fit, and warns of one that will probably not.

    Args:
        need: What it needs.
        available: Bytes that this process can still allocate.

    Raises:
        ValueError: If even the least does not fit; names both figures.
    """
    if need.usual <= available:
        return
    certain = need.least > available
    asked = f"at least {as_gib(need.least)}" if certain else f"about {as_gib(need.usual)}"
    text = (
        f"this process, which prepares the run, needs {asked} of memory and has {as_gib(available)} left: "
        f"{need.reason}. Start it where there is more (on Kubernetes: head.memory), use fewer rows, plan "
        'training data window by window (as collisions="mask" and "drop" do; see docs/large-data.md), or '
        "open the model from a folder in its own type."
    )
    if certain:
        raise ValueError(text[0].upper() + text[1:])
    notes.warning(f"warning: {text}")


def check_driver_memory(
    modules: Iterable[nn.Module], specs: Mapping[str, LoaderSpec], streams: bool = True
) -> None:
    """Checks that this process has the memory for a run, as far as that is known before any row is read.

    Args:
        modules: The model and its losses.
        specs: The run's data.
        streams: Whether data whose windows can be planned one by one is; otherwise all is planned whole.

    Raises:
        ValueError: As for :func:`check_need`.
    """
    rows, whole = [], []
    for spec in specs.values():
        for dataset in spec.datasets.values():
            count = known_rows(dataset.source) or 0
            if streams and spec.plans_windows and read_anywhere(dataset.source):
                count = min(count, segments.FIRST_WINDOW * segments.ROWS)  # an actor plans the others
            elif count:
                sampler = spec.settings.get("batch sampler")
                whole.append(f"{dataset.label}, {sampler}" if sampler else dataset.label)
            rows.append((count, len(dataset.encoding.columns.texts)))
    check_need(driver_need(rows, bytes_beside_files(modules), whole), available_memory())
