"""Mining hard negatives: time and peak memory, ours beside the peer's, and whether both find the same rows.

    python benchmarks/mine.py                     # 20 thousand pairs, a few minutes on two cores
    python benchmarks/mine.py --pairs 100000

What is compared is mining, not encoding: both sides are given the same model, whose embeddings are a table of random
vectors looked up by number, made so that a positive is nearer to its query than chance. A side runs in a process of
its own; its peak is what its memory grew by while it mined, measured by the system, texts and table not counted. On a busy machine, compare CPU times. Rows
may differ where two candidates' scores are equal but for rounding: how many do is printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

SETTINGS: dict[str, dict[str, Any]] = {
    "top": {"num_negatives": 3},
    "margin": {"num_negatives": 3, "relative_margin": 0.05, "range_min": 2, "output_format": "n-tuple"},
}


class Table:
    """A model whose embeddings are looked up: text ``q7`` is query 7, ``d7`` document 7."""

    device = torch.device("cpu")
    similarity_fn_name = "cosine"
    model_card_data = SimpleNamespace(base_model="table")

    def __init__(self, side: str, pairs: int, dimensions: int) -> None:
        draws = np.random.default_rng(0)
        documents = draws.normal(size=(pairs, dimensions)).astype(np.float32)
        queries = documents + draws.normal(size=(pairs, dimensions)).astype(np.float32)
        self.rows = {"q": _unit(queries), "d": _unit(documents)}
        self.similarity, self.similarity_pairwise = _similarity(side)

    def encode_document(self, texts: list[str], **options: Any) -> np.ndarray:
        """The rows of the table that texts name."""
        return self.rows[texts[0][0]][[int(text[1:]) for text in texts]]

    encode_query = encode_document

    def get_embedding_dimension(self) -> int:
        """Dimensions."""
        return self.rows["q"].shape[1]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _similarity(side: str) -> Any:
    if side == "ours":
        from ray_st.util import cos_sim, pairwise_cos_sim
    else:
        from sentence_transformers.util import cos_sim, pairwise_cos_sim
    return cos_sim, pairwise_cos_sim


def main() -> None:
    """Run both sides in turn and print the ratios."""
    options = arguments()
    if options.side:
        print("RESULT " + json.dumps(mine(options)), flush=True)
        return
    for setting in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            found = {side: start(side, setting, options, folder) for side in ("ours", "peer")}
            report(setting, found, options, Path(folder))


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--faiss-batch-size", type=int, default=16384, help="the pages' default")
    parser.add_argument("--side", choices=["ours", "peer"])
    parser.add_argument("--setting", choices=list(SETTINGS), default="top")
    parser.add_argument("--output")
    return parser.parse_args()


def start(side: str, setting: str, options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """One side in a process of its own."""
    sizes = ("pairs", "dimensions", "threads", "faiss_batch_size")
    values = {name: getattr(options, name) for name in sizes}
    values |= {"side": side, "setting": setting, "output": str(Path(folder) / side)}
    flags = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(f"{setting}: {side} did not end (exit {done.returncode}): {done.stderr[-300:]}")
        return {}
    return dict(json.loads(lines[0].removeprefix("RESULT ")))


def mine(options: argparse.Namespace) -> dict[str, Any]:
    """Mine once; tell seconds, MiB and rows."""
    from datasets import Dataset

    if options.side == "ours":
        from ray_st.util import mine_hard_negatives
    else:
        from sentence_transformers.util import mine_hard_negatives
    torch.set_num_threads(options.threads)
    texts = [[f"{letter}{number}" for number in range(options.pairs)] for letter in "qd"]
    data = Dataset.from_dict(dict(zip(("query", "answer"), texts, strict=True)))
    model = Table(options.side, options.pairs, options.dimensions)
    settings = {**SETTINGS[options.setting], "faiss_batch_size": options.faiss_batch_size, "verbose": False}
    before, begin, busy = _peak(), time.perf_counter(), time.process_time()
    found = mine_hard_negatives(data, model, **settings)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    memory = _peak() - before
    found.to_parquet(options.output)
    return {"seconds": seconds, "busy": busy, "mib": memory, "rows": len(found)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(setting: str, found: dict[str, dict[str, Any]], options: argparse.Namespace, folder: Path) -> None:
    """Figures, ratios, and rows that differ."""
    import pyarrow.parquet as pq

    for side, figures in found.items():
        if figures:
            print(
                f"{setting}: {side} {figures['seconds']:.1f} s ({figures['busy']:.1f} s of CPU), {figures['mib']:,.0f} MiB, {figures['rows']:,} rows"
            )
    if not all(found.values()):
        return
    ours, peer = found["ours"], found["peer"]
    rows = [set(zip(*pq.read_table(folder / side).to_pydict().values(), strict=True)) for side in found]
    print(
        f"{setting}: {options.pairs:,} pairs, time peer/ours {peer['seconds'] / ours['seconds']:.2f}, CPU time "
        f"{peer['busy'] / ours['busy']:.2f}, memory "
        f"peer/ours {peer['mib'] / ours['mib']:.1f}, rows only ours {len(rows[0] - rows[1])}, only the peer's "
        f"{len(rows[1] - rows[0])}"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
