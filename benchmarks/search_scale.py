"""A search at the size of a cluster: hundreds of trials over the pretended GPUs of several pretended nodes.

    python benchmarks/search_scale.py --scheduler asha
    python benchmarks/search_scale.py --scheduler halving --gpu 0.5 --nodes 4

Study, sampler, schedulers, journal, its copy in a storage, table, metrics and the searcher are the real ones;
so are Ray Tune, the nodes' raylets and the trials' processes. Only what a trial does is pretended: it sleeps
between its evaluations, so that about ``--rate`` of them arrive a second, and its value follows a curve.

Printed are the share of the slots' time without work while trials waited, how long a process is without work
between two trials and between two evaluations of one, where trials ran, the driver's share of a core, its
memory a trial, the size of the journal, and how the trials ended.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import psutil
import ray
from ray.cluster_utils import Cluster
from ray.train import RunConfig
from ray.tune.result import RESULT_DUPLICATE
from ray.tune.trainable import FunctionTrainable

from ray_st.runtime.supervision import ray_metrics
from ray_st.runtime.tune.search_home import SearchFolder, taken
from ray_st.runtime.tune.search_stop import SearchStop
from ray_st.runtime.tune.shared_data import SharedData
from ray_st.runtime.tune.trial_loop import TrialContext
from ray_st.runtime.tune.trial_resources import Need
from ray_st.runtime.tune.tuner import SearchRun
from ray_st.study.halving import Rungs
from ray_st.study.journal import JOURNAL, Journal
from ray_st.study.objective import Objective
from ray_st.study.search_options import as_options
from ray_st.study.search_progress import LiveLines, SearchProgress
from ray_st.study.search_report import write_report
from ray_st.study.search_settings import check_settings
from ray_st.study.study import Study
from ray_st.study.watcher import Retention, Watcher
from ray_st.training.checkpoint.store import CheckpointStore

MIB = 2**20
STORE_BYTES = 80 * MIB
METRICS = 12
"""Figures of an evaluation besides the objective, as an information retrieval evaluator has them."""


@dataclass(frozen=True)
class Work:
    """What a process did between two reports.

    Args:
        trial: For which trial.
        process: Number of the process.
        node: Its node.
        begin: When, as Unix time.
        end: Until when.
    """

    trial: int
    process: int
    node: str
    begin: float
    end: float

    @classmethod
    def of(cls, line: str) -> Work:
        """What a line of the log says."""
        trial, process, node, begin, end = line.split()
        return cls(int(trial), int(process), node, float(begin), float(end))


def pretended(log: str, slots: int, each_s: float, evaluations: int) -> type[FunctionTrainable]:
    """A trainable that imports neither torch nor ray_st, and writes down when it works.

    Args:
        log: The file.
        slots: How many processes there will be: the first trials wait for all of them, since two cores start
            64 processes in minutes, in which short trials would come and go.
        each_s: Mean seconds from one evaluation to the next.
        evaluations: How many a trial has.
    """

    class PretendedTrial(FunctionTrainable):
        _name = "trial"

        def setup(self, config: dict[str, Any], kit: Sequence[object] = ()) -> None:
            super().setup(config)

        def _trainable_func(self, config: dict[str, Any]) -> None:
            import math
            import os
            import random
            import time

            import ray
            from ray import tune

            number, values = config["number"], config["values"]
            node = ray.get_runtime_context().get_node_id()[:6]
            with open(f"{log}.up", "a") as stream:
                stream.write("+")
            while os.path.getsize(f"{log}.up") < slots:
                time.sleep(0.2)
            chance = random.Random(number)
            pace = each_s * chance.uniform(0.7, 1.3)
            best = -((math.log10(values["rate"]) + 4) ** 2) - (values["share"] - 0.1) ** 2
            for evaluation in range(config["known"] + 1, evaluations + 1):
                begin = time.time()
                time.sleep(pace * chance.uniform(0.8, 1.2))
                with open(log, "a") as stream:
                    stream.write(f"{number} {os.getpid()} {node} {begin} {time.time()}\n")
                value = best - math.exp(-evaluation / 3) + chance.gauss(0, 0.01)
                metrics = {f"eval_dev_cosine_figure@{place}": value / place for place in range(1, METRICS)}
                tune.report(
                    {
                        "evaluation": evaluation,
                        "step": 100 * evaluation,
                        "ended": evaluation == evaluations,
                        "samples": 3200 * evaluation,
                        "metrics": {**metrics, "eval_score": value},
                        "objective": value,
                        "objectives": [value],
                        "seconds_here": time.time() - begin,
                    }
                )
            tune.report({RESULT_DUPLICATE: True})

    return PretendedTrial


def space(trial: Any) -> dict[str, Any]:
    """Three hyperparameters, as searches have them."""
    return {
        "rate": trial.suggest_float("rate", 1e-6, 1e-2, log=True),
        "share": trial.suggest_float("share", 0.0, 0.3),
        "batch": trial.suggest_categorical("batch", [16, 32, 64]),
    }


class Gauge(threading.Thread):
    """Notes the driver's processor time and memory, twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.noted: list[tuple[float, float, float]] = []

    def run(self) -> None:
        """Notes them until the process ends."""
        driver = psutil.Process()
        while True:
            spent = driver.cpu_times()
            self.noted.append((time.time(), spent.user + spent.system, driver.memory_info().rss / MIB))
            time.sleep(0.5)

    def at(self, moment: float) -> tuple[float, float]:
        """Processor seconds and MiB at a moment."""
        _, spent, memory = min(self.noted, key=lambda note: abs(note[0] - moment))
        return spent, memory


def search(place: SearchFolder, given: argparse.Namespace, log: str, need: Need) -> Study:
    """Runs the search.

    Args:
        place: Its folder.
        given: The command line.
        log: Where trials write down when they work.
        need: The resources of a trial.
    """
    scheduler = None if given.scheduler == "none" else given.scheduler
    options = as_options({"scheduler": scheduler, "reduction_factor": given.factor}, 1)
    objective = Objective("eval_score", ("maximize",))
    study = Study(space, objective, Journal(place.path / JOURNAL, place.check), given.trials)
    # A terminal's live lines are made after each evaluation, whether anybody sees them or not.
    terminal: TextIO = sys.stdout if given.lines else Forgetful()
    progress = SearchProgress(study, 1, place.path, False, LiveLines(terminal))
    store = CheckpointStore(str(place.path), fence=place.lease.fence)
    rungs = Rungs(1, given.factor) if scheduler == "halving" else None
    kit = TrialContext(nothing, objective, SharedData({}), store, "scale", must_checkpoint=rungs)
    retention = Retention(study, kit.trial_store, 1, place.mirrors.get(""))
    progress.begin()
    SearchRun(
        study=study,
        kit=kit,
        options=options,
        folder=place.path,
        maximize=True,
        need=need,
        population=None,
        watcher=Watcher(study, progress, retention, partial(ray_metrics.show_search, "scale")),
        stop=SearchStop(),
        name=place.path.name,
        trainable=pretended(log, need.room(), need.room() / given.rate, given.evaluations),
    ).run(place.lease)
    begin = time.perf_counter()
    write_report(place.path, study, 1)
    print(f"report: {time.perf_counter() - begin:.1f} s")
    return study


def nothing(number: int, values: Mapping[str, Any], name: str) -> Any:
    """Makes no trial: the pretended ones need none."""
    raise NotImplementedError


class Forgetful(io.StringIO):
    """A terminal that keeps nothing: it would count as the driver's memory."""

    def write(self, text: str) -> int:
        """Forgets the text."""
        return len(text)


def main() -> None:
    """Searches on a pretended cluster, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheduler", choices=("asha", "halving", "hyperband", "none"), default="asha")
    parser.add_argument("--trials", type=int, default=512)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8, help="of a node")
    parser.add_argument("--gpu", type=float, default=1.0, help="of a trial")
    parser.add_argument("--rate", type=float, default=20.0, help="evaluations a second, of all trials")
    parser.add_argument("--evaluations", type=int, default=9, help="of a trial that is not stopped")
    parser.add_argument("--factor", type=int, default=3, help="one in so many trials continues")
    parser.add_argument("--lines", action="store_true", help="show the search's own lines")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    cluster = Cluster()
    for _ in range(given.nodes):
        cluster.add_node(
            num_cpus=1, num_gpus=given.gpus, object_store_memory=STORE_BYTES, include_dashboard=False
        )
    gauge = Gauge()
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        need = Need.of(None, {"GPU": given.gpu})
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
            folder, storage = Path(root) / "out" / "scale", Path(root) / "storage"
            folder.mkdir(parents=True)
            log = str(Path(root) / "log")
            with taken(folder, RunConfig(storage_path=str(storage))) as place:
                check_settings(folder, {"seed": 0})
                with place.copying():
                    gauge.start()
                    study = search(place, given, log, need)
            works = sorted(map(Work.of, Path(log).read_text().splitlines()), key=lambda work: work.begin)
            report(works, need.room(), study, gauge)
            copied = sum(path.stat().st_size for path in storage.glob("searches/scale/journal/*"))
            size = (folder / JOURNAL).stat().st_size
            print(f"journal: {size / 1000:.0f} kB, {size / given.trials:.0f} bytes a trial")
            print(f"all of it is in the storage: {copied == size}")
    finally:
        ray.shutdown()
        cluster.shutdown()


def report(works: Sequence[Work], slots: int, study: Study, gauge: Gauge) -> None:
    """Prints the figures.

    Args:
        works: What the processes did, by begin.
        slots: How many trials there is room for.
        study: The search's study.
        gauge: The driver's processor time and memory.
    """
    first: dict[int, float] = {}
    for work in works:
        first.setdefault(work.trial, work.begin)
    begun = sorted(first.values())
    full, last = begun[slots - 1], begun[-1]
    states = Counter(record.state for record in study.records)
    print(f"{len(begun)} trials, {len(works)} evaluations on {slots} slots: {dict(states)}")
    asked = study.records[0].spans[0][0]
    print(f"all slots had work after {full - asked:.1f} s; the last trial began {last - full:.1f} s later")
    busy = sum(max(min(work.end, last) - max(work.begin, full), 0.0) for work in works)
    print(
        f"while trials waited, {1 - busy / (slots * (last - full)):.1%} of the slots' time was without work"
    )
    print_gaps(works, full, last)
    nodes = Counter(work.node for work in works if work.begin == first[work.trial])
    print(f"trials by node: {sorted(nodes.values(), reverse=True)}")
    inside = sum(full <= work.end <= last for work in works)
    (spent, memory), (spent_last, _) = gauge.at(full), gauge.at(last)
    share, grown = spent_last - spent, gauge.at(works[-1].end)[1] - memory
    print(
        f"driver: {share / (last - full):.0%} of a core at {inside / (last - full):.1f} evaluations a second"
    )
    print(
        f"driver: {memory:.0f} MiB with all slots at work, {grown * 1024 / len(begun):.0f} KiB more a trial"
    )


def print_gaps(works: Sequence[Work], begin: float, end: float) -> None:
    """Prints how long processes were without work: between two trials, and between two evaluations of one."""
    by_process: dict[tuple[str, int], list[Work]] = {}
    for work in works:
        by_process.setdefault((work.node, work.process), []).append(work)
    gaps: dict[bool, list[float]] = {True: [], False: []}
    for done in by_process.values():
        for one, other in pairwise(done):
            if one.end >= begin and other.begin <= end:
                gaps[one.trial == other.trial].append(other.begin - one.end)
    for same, words in ((False, "from one trial to the next"), (True, "from one evaluation to the next")):
        found = sorted(gaps[same])
        if found:
            print(
                f"{words}: median {statistics.median(found):.2f} s, 95 of 100 below "
                f"{found[int(0.95 * (len(found) - 1))]:.2f} s, longest {found[-1]:.2f} s ({len(found)})"
            )
    print(f"processes: {len(by_process)}")


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()
