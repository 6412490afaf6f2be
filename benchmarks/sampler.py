"""Rows planned a second by our batch samplers and by the peer's: `make bench-sampler`.

A figure is rows of an epoch over the CPU seconds of one core, children included, so that a busy machine harms little:
the median of some rounds, which alternate between the two. The first epoch includes what a sampler prepares: from keys
(what a run has, as encoding makes them on the way) finding repeats; from texts also their hashes. A later epoch only
plans. What the peer has not done when its time is up is rated by what it had done.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ray_st.data.keys import Keys
from ray_st.data.mixing import Concatenated
from ray_st.data.samplers import RandomOrder
from ray_st.sampler import (
    DefaultBatchSampler,
    GroupByLabelBatchSampler,
    NoDuplicatesBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
)

BATCH = 1024
HOT = 0.3
"""Share of rows whose anchor repeats others: Zipf's law, exponent 1.5; the most frequent is in a ninth of all rows."""

TEXT_ROWS = 1_000_000
"""Most rows that are made as texts, for the peer."""

LABELS = 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of ours and of small peers (default: 3)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5, help="CPU time of a peer's epoch at most (default: 5)"
    )
    options = parser.parse_args()
    quiet()
    print(f"global batch {BATCH}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; million rows/s")
    for rows in options.rows:
        for share in (0.0, HOT):
            no_duplicates(rows, share, options)
    for rows in options.rows:
        others(rows, options.rounds)


def quiet() -> None:
    """No bars and no advice: a table is all there is to see."""
    datasets.disable_progress_bars()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def draw(rows: int, share: float) -> Keys:
    """Keys of pairs of which a share has an anchor that others have, too; labels from few to many rows."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(2**63, 2**64, (rows, 2), dtype=np.uint64)
    hot = rng.random(rows) < share
    hashes[hot, 0] = rng.zipf(1.5, np.count_nonzero(hot)).clip(max=rows).astype(np.uint64)
    labels = (LABELS * rng.random(rows) ** 2).astype(np.int64)
    return Keys(hashes, labels=labels)


def as_texts(keys: Keys) -> datasets.Dataset:
    """A dataset in which texts are equal where hashes are."""
    columns = {name: pa.array(keys.hashes[:, place]) for place, name in enumerate(("anchor", "positive"))}
    return datasets.Dataset(pa.table({name: column.cast(pa.string()) for name, column in columns.items()}))


@dataclass
class Rate:
    """Rows a second of the first epoch and of a later one; `whole` tells whether all were planned."""

    first: float
    later: float
    whole: bool

    def __str__(self) -> str:
        """Both figures; the sign means that less than an epoch was done."""
        return f"{'' if self.whole else '~'}{self.first / 1e6:.4g} / {self.later / 1e6:.4g}"


def no_duplicates(rows: int, share: float, options: argparse.Namespace) -> None:
    """Compares the samplers that keep duplicates out of batches."""
    keys = draw(rows, share)
    jobs: dict[str, Callable[[], Rate]] = {
        "keys": lambda: ours(lambda: NoDuplicatesBatchSampler(keys, BATCH))
    }
    if rows <= TEXT_ROWS:
        texts = as_texts(keys)
        jobs["texts"] = lambda: ours(lambda: NoDuplicatesBatchSampler(texts, BATCH))
        for name, hashed in (("peer plain", False), ("peer hashed", True)):
            jobs[name] = functools.partial(peer, texts, hashed, options.seconds)
    # The peer's long epochs are measured once.
    found: dict[str, list[Rate]] = {name: [] for name in jobs}
    for number in range(options.rounds):
        for name, job in jobs.items():
            if number == 0 or not name.startswith("peer") or rows <= 10_000:
                found[name].append(job())
    rates = {name: median(measured) for name, measured in found.items()}
    shown = "  ".join(f"{name} {rate}" for name, rate in rates.items())
    print(f"{rows:>10,} rows, {share:3.0%} hot: {shown}{_ratio(rates)}", flush=True)


def _ratio(rates: dict[str, Rate]) -> str:
    if "texts" not in rates:
        return ""
    best = [
        max(getattr(rates[f"peer {kind}"], epoch) for kind in ("plain", "hashed"))
        for epoch in ("first", "later")
    ]
    return f"  ratio {rates['texts'].first / best[0]:.1f} / {rates['texts'].later / best[1]:.1f}"


def median(rates: list[Rate]) -> Rate:
    """The median of each figure."""
    firsts, laters = [rate.first for rate in rates], [rate.later for rate in rates]
    return Rate(statistics.median(firsts), statistics.median(laters), all(rate.whole for rate in rates))


def cpu_seconds() -> float:
    """CPU time of this process and its children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ours(make: Callable[[], Any]) -> Rate:
    """A sampler made anew, then two epochs planned."""
    seconds, sampler = [], None
    for epoch in range(2):
        start = cpu_seconds()
        sampler = sampler or make()
        sampler.set_epoch(epoch)
        planned = len(sampler.plan().rows)
        seconds.append(cpu_seconds() - start)
    return Rate(planned / seconds[0], planned / seconds[1], True)


def peer(texts: datasets.Dataset, hashed: bool, most: float) -> Rate:
    """The peer's sampler made anew, then two epochs drawn."""
    import torch
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler as Peer

    torch.set_num_threads(1)
    if hashed:
        datasets.fingerprint.disable_caching()
    start, rates, whole = cpu_seconds(), [], True
    generator = torch.Generator()
    sampler = Peer(texts, BATCH, drop_last=False, generator=generator, seed=0, precompute_hashes=hashed)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        drawn = _drawn(sampler, start + most)
        rates.append(drawn / (cpu_seconds() - start))
        whole &= drawn >= len(texts)
        start = cpu_seconds()
    return Rate(rates[0], rates[1], whole)


def _drawn(batches: Iterable[list[int]], end: float) -> int:
    rows = 0
    for batch in batches:
        rows += len(batch)
        if cpu_seconds() > end:
            break
    return rows


def others(rows: int, rounds: int) -> None:
    """Our other samplers, and mixtures of four datasets of different sizes."""
    keys = draw(rows, 0.0)
    whole = np.arange(rows)
    parts = [keys.take(part) for part in np.split(whole, [rows // 10, rows // 4, rows // 2])]

    def mixed(kind: Any) -> Any:
        return kind(Concatenated(parts), [NoDuplicatesBatchSampler(part, BATCH) for part in parts])

    jobs: dict[str, Callable[[], Any]] = {
        "default": lambda: DefaultBatchSampler(RandomOrder(rows), BATCH),
        "group by label": lambda: GroupByLabelBatchSampler(keys, BATCH),
        "round robin": lambda: mixed(RoundRobinBatchSampler),
        "proportional": lambda: mixed(ProportionalBatchSampler),
    }
    rates = {name: median([ours(job) for _ in range(rounds)]) for name, job in jobs.items()}
    shown = "  ".join(f"{name} {rate}" for name, rate in rates.items())
    print(f"{rows:>10,} rows: {shown}", flush=True)


if __name__ == "__main__":
    main()
