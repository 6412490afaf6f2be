"""Ranks on several nodes of a cluster of its own process; prints what they read, or what a run of theirs came to.

python tests/nodes_script.py read FOLDER [--lose]
python tests/nodes_script.py train FOLDER MODEL
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pyarrow import csv
from ray.cluster_utils import Cluster
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_st.data.batch_source import Planner
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoding import Encoding, encode_block
from ray_st.data.samplers import DefaultBatchSampler, RandomOrder
from ray_st.runtime.data import rank_source
from ray_st.runtime.data.block_source import BlockRefs, RayBatchSource
from ray_st.runtime.data.rank_source import RankBatchSource
from ray_st.training.data.step_loader import BATCH, SHARES, StepDataset
from ray_st.world import World

BLOCKS, BLOCK_ROWS, BATCH_ROWS, RANKS = 6, 2000, 100, 2
COLUMNS = ColumnSpec(("a",), "label")


def letters(texts: list[str]) -> list[np.ndarray]:
    return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) for text in texts]


def block(number: int) -> pa.Table:
    """Some 400 KB: blocks of less than 100 KB would not lie in the object store."""
    rng = random.Random(number)
    texts = [f"{number} {row} " + "x" * rng.randrange(60) for row in range(BLOCK_ROWS)]
    rows = pa.table({"a": texts, "label": [rng.random() for _ in texts]})
    return encode_block(rows, Encoding(COLUMNS, letters))


def collate(window: Any, rows: np.ndarray, name: str) -> dict[str, Any]:
    return {"ids": [ids.tolist() for ids in window.ids("a", rows)], "labels": window.labels(rows)}


class Reader:
    """Goes through the steps of a rank."""

    def __init__(self, source: RayBatchSource, rank: int, apart: bool) -> None:
        rank_source.SHARE_ROWS = 1
        self.bytes, self.rank = 0, rank
        if apart:
            source = RankBatchSource.of(source, World(rank, RANKS))
            read: Any = source._rows_on

            def counted(*given: Any) -> list[pa.Table]:
                tables: list[pa.Table] = read(*given)
                self.bytes += sum(table.nbytes for table in tables)
                return tables

            source._rows_on = counted  # type: ignore[method-assign]
        made: Any = collate
        self.steps, self.count = StepDataset(source, World(rank, RANKS), made), source.steps

    def read(self, first: int, end: int) -> list[Any]:
        """For each step the global batch, and the values of this rank's rows."""
        found = []
        for step in range(first, end):
            inputs = self.steps[0, step]
            own = slice(inputs[SHARES][self.rank])
            found.append([inputs[BATCH].tolist(), inputs["ids"][own], inputs["labels"][own]])
        return found

    def bytes_read(self) -> int:
        return self.bytes


def nodes_of(count: int, cpus: int = 1, store: int = 100) -> tuple[Cluster, list[Any]]:
    cluster = Cluster()
    size = store * 1_000_000
    nodes = [
        cluster.add_node(
            num_cpus=cpus, object_store_memory=size, include_dashboard=False, dashboard_port=None
        )
        for _ in range(count)
    ]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    return cluster, nodes


def on(node: Any, soft: bool = False) -> dict[str, Any]:
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=soft)}


def read(lose: bool) -> dict[str, Any]:
    """Two ranks on two of three nodes, all of which have blocks; the third may be lost on the way."""
    cluster, nodes = nodes_of(3)
    make: Any = ray.remote(block)
    made = [make.options(**on(nodes[number % 3], soft=True)).remote(number) for number in range(BLOCKS)]
    ray.wait(made, num_returns=BLOCKS, fetch_local=False)  # to get them here would be another copy
    rows = BLOCKS * BLOCK_ROWS
    refs = BlockRefs(dict(enumerate(made)), (BLOCK_ROWS,) * BLOCKS, COLUMNS)
    source = RayBatchSource(
        {"": refs}, Planner(DefaultBatchSampler(RandomOrder(rows, seed=3), BATCH_ROWS), 1)
    )
    results, readers, before = {}, [], copies(made)
    for apart in (True, False):
        reader: Any = ray.remote(Reader)
        readers = [reader.options(**on(nodes[rank])).remote(source, rank, apart) for rank in range(RANKS)]
        half = source.steps // 2
        found = ray.get([each.read.remote(0, half) for each in readers])
        if lose and apart:
            cluster.remove_node(nodes[2], allow_graceful=False)
        rest = ray.get([each.read.remote(half, source.steps) for each in readers])
        results[apart] = [own + more for own, more in zip(found, rest, strict=True)]
        if apart:
            after, taken = copies(made), ray.get([each.bytes_read.remote() for each in readers])
    assert results[True] == results[False]
    return {
        "steps": source.steps,
        "rows": sorted(row for batch, _, _ in results[True][0] for row in batch) == list(range(rows)),
        "bytes": taken,
        "all_bytes": sum(place["object_size"] for place in get_object_locations(made).values()),
        "copies": [before, after, copies(made)],
    }


def copies(blocks: list[Any]) -> int:
    return sum(len(place["node_ids"]) for place in get_object_locations(blocks).values())


def train(folder: Path, model: str) -> dict[str, Any]:
    """Two workers on a node each, with a planner and a worker killed; and the same in this process."""
    from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger
    from runtime_helpers import KillOnce, difference, losses_of
    from streamed_run import STEPS, TABLE, KillPlanner, NoteSource, parquet
    from streamed_run import train as run

    nodes_of(2)
    sources = folder / "sources"
    sources.mkdir()
    kills = (KillPlanner(6, folder / "planner"), KillOnce(17, folder / "worker"), NoteSource(sources))
    found = run(folder / "out", Path(model), parquet(folder), 2, *kills)
    here = run(folder / "here", Path(model), TABLE, 0)
    losses, expected = losses_of(found), losses_of(here)
    return {
        "steps": len(losses) == STEPS,
        "apart": max(abs(ours - theirs) for ours, theirs in zip(losses, expected, strict=True)),
        "weights": difference(found, here),
        "ledger": list(read_ledger(folder / "out" / LEDGER)) == list(read_ledger(folder / "here" / LEDGER)),
        "killed": [(folder / name).exists() for name in ("planner", "worker")],
        "sources": sorted(path.read_text() for path in sources.iterdir()),
    }


ORDER_ROWS, ORDER_STEPS = 66_000, 1_000


def order(folder: Path, model: str, store: int) -> dict[str, str]:
    """Digests of the order of a run's first steps on one to three workers, from Parquet and from CSV."""
    from streamed_run import order_of

    rng = random.Random(0)
    words = [[rng.choice(["a", "text", "good", "man", "pasta"]) for _ in range(40)] for _ in range(500)]
    texts = [" ".join([str(row), *words[row % 500]]) for row in range(ORDER_ROWS)]
    table = pa.table({"a": texts, "b": texts[::-1]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=1000)
    csv.write_csv(table, folder / "rows.csv")
    nodes_of(1, cpus=4, store=store)
    found = {}
    for kind in ("parquet", "csv"):
        for workers in (1, 2, 3):
            name = f"{kind}, {workers} workers"
            source = str(folder / f"rows.{kind}")
            found[name] = order_of(folder / name, Path(model), source, workers, ORDER_STEPS)
            print(name, found[name], file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("read", "train", "order"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="?", default="")
    parser.add_argument("--lose", action="store_true")
    parser.add_argument("--store", type=int, default=100, help="MB of each node's object store")
    options = parser.parse_args()
    if options.kind == "read":
        found: dict[str, Any] = read(options.lose)
    elif options.kind == "train":
        found = train(options.folder, options.model)
    else:
        found = order(options.folder, options.model, options.store)
    print(json.dumps(found), flush=True)
    ray.shutdown()  # at exit the nodes would end first, and Ray ends a driver that has lost its cluster with an error


if __name__ == "__main__":
    import nodes_script  # by its name, not as __main__, so that it can be sent to workers

    nodes_script.main()
