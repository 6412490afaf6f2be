"""A rank of two under DDP with a gradient cache: its memory, and what hiding the reduction could gain.

    python benchmarks/reduction.py                          # a random BERT of 110M weights
    python benchmarks/reduction.py --width 384 --layers 6 --rows 128 --mini-batch 32

Two Gloo processes, CachedMultipleNegativesRankingLoss on pairs of 24 random words, AdamW. For each step: the highest
resident memory of the first rank over what was resident before the model was wrapped, in the backward pass and in the
whole step, and the seconds of the backward pass. Then the seconds of what could run at the same time: the reduction of
all gradients, and the backward pass of the last mini-batch. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

WORDS, TOKENS = 30_000, 24
BUCKET = 25 * 2**20


def main() -> None:
    """Prints the first rank's figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=32, help="pairs of a rank's batch")
    parser.add_argument("--mini-batch", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=1, help="batches of a step")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (folder, options), nprocs=2)  # type: ignore[no-untyped-call]
        print(Path(folder, "figures.json").read_text())


def _rank(rank: int, folder: str, options: argparse.Namespace) -> None:
    from ray_st.losses import CachedMultipleNegativesRankingLoss
    from ray_st.training.distributed.collectives import reduce_gradients
    from ray_st.training.strategies.step_module import Step

    torch.set_num_threads(1)
    model = _model(options, f"{folder}/{rank}")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model(_tokens(1))  # what the first call alone allocates
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=options.mini_batch)
    before = _resident("VmRSS")
    args: Any = types.SimpleNamespace(
        ddp_find_unused_parameters=None,
        ddp_broadcast_buffers=None,
        ddp_bucket_cap_mb=None,
        device=torch.device("cpu"),
    )
    wrapped = reduce_gradients(Step(model, loss), args)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-5)
    steps = [_step(wrapped, loss, optimizer, options, before) for _ in range(options.steps)]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    figures = {
        "weights_mib": sum(weight.nbytes for weight in weights) / 2**20,
        "steps": steps,
        "reduction_seconds": _median(lambda: _reduce(weights), 5),
        "mini_batch_backward_seconds": _last_backward(model, options),
    }
    if rank == 0:
        Path(folder, "figures.json").write_text(json.dumps(figures, indent=1))
    dist.destroy_process_group()


def _model(options: argparse.Namespace, folder: str) -> nn.Module:
    import transformers

    from ray_st.models import Pooling, SentenceTransformer, Transformer
    from ray_st.testing.tiny_encoder import word_tokenizer

    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=options.width,
        intermediate_size=4 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    parts = [Transformer(folder, TOKENS), Pooling(options.width, "mean")]
    return SentenceTransformer(modules=parts, device="cpu").train()


def _tokens(rows: int) -> dict[str, Tensor]:
    ids = torch.randint(1, WORDS, (rows, TOKENS))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _step(
    wrapped: Any, loss: nn.Module, optimizer: torch.optim.Optimizer, options: argparse.Namespace, before: int
) -> dict[str, float]:
    wrapped.zero_grad()
    peaks, seconds = [], 0.0
    for place in range(options.accumulate):
        wrapped.require_backward_grad_sync = place == options.accumulate - 1
        _begin_peak()
        value = wrapped(lambda: loss([_tokens(options.rows) for _ in range(2)]))
        forward = _resident("VmHWM")
        _begin_peak()
        start = time.perf_counter()
        value.backward()
        seconds += time.perf_counter() - start
        peaks += [forward, _resident("VmHWM")]
    _begin_peak()
    optimizer.step()
    peaks.append(_resident("VmHWM"))
    return {
        "backward_mib": round((max(peaks[1:-1:2]) - before) / 1024),
        "step_mib": round((max(peaks) - before) / 1024),
        "backward_seconds": seconds,
    }


def _begin_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def _median(work: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _reduce(weights: list[Tensor]) -> None:
    """As DDP does it: bucket by bucket, all at the same time."""
    total = sum(weight.numel() for weight in weights)
    buckets = torch.zeros(total).split(BUCKET // 4)
    for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
        work.wait()


def _last_backward(model: nn.Module, options: argparse.Namespace) -> float:
    """Seconds of the backward pass of a mini-batch, without its forward pass."""
    model.zero_grad()
    seconds = []
    for _ in range(5):
        value = model(_tokens(options.mini_batch))["sentence_embedding"].sum()
        start = time.perf_counter()
        value.backward()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
