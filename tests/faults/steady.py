"""Harms one long run again and again, and prints the share of its time that was well spent.

    RAY_ADDRESS= python tests/faults/steady.py --folder /tmp/steady [--minutes 20] [--every-s 180] [--elastic]

Workers are killed, told to end, and stopped, in turns. Well spent is the time in steps that count: of a step that was done
twice the second one does, as the first was lost. The rest is the start of the run, what was lost, and what it took to go on.

With `--elastic` the run has one to two workers, on a node each: a worker is killed, then a node, which is given back next.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drill import EPOCH, FROZEN, PATIENT, Run, add_node, make_cluster, unbroken, verdict

STEP_S = 0.27
"""About what a step of the job takes, with its wait."""
Harm = Callable[[Run], str]
"""Does harm to a run; says what."""


def signalled(number: signal.Signals, rank: int) -> Harm:
    """Sends a signal to a rank of the present group; to the first one if there are fewer."""

    def harm(run: Run) -> str:
        now = ranks_now(run)
        hit = rank if rank in now else 0
        os.kill(now[hit]["pid"], number)
        return f"{number.name} to rank {hit}"

    return harm


def node_killed(run: Run) -> str:
    """Kills the node that does not have the driver, with the worker on it."""
    run.cluster.remove_node(next(iter(run.cluster.worker_nodes)), allow_graceful=False)
    return "a node killed"


def node_given_back(run: Run) -> str:
    """Adds a node for the one that was killed."""
    add_node(run.cluster, 1)
    return "a node given back"


SIGNALS = tuple(
    signalled(number, rank)
    for number, rank in zip(
        (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP) * 2, (1, 1, 1, 0, 0, 0), strict=True
    )
)
ELASTIC = (signalled(signal.SIGKILL, 1), node_killed, node_given_back)


def ranks_now(run: Run) -> dict[int, dict[str, Any]]:
    """The last line of each rank of the group that wrote last."""
    diary = run.diary()
    return {line["rank"]: line for line in diary if line["rank"] < diary[-1]["workers"]}


def main() -> None:
    """Hold the run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--every-s", type=float, default=180)
    parser.add_argument("--elastic", action="store_true", help="one to two workers; nodes come and go")
    options = parser.parse_args()
    options.folder = options.folder.resolve()  # Ray takes a relative path for a URI
    options.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.folder / "run", ignore_errors=True)  # the unbroken run is kept
    for left in options.folder.glob("run.*"):
        left.unlink()
    steps = round(options.minutes * 60 / STEP_S / EPOCH) * EPOCH
    job = ["--steps", str(steps), "--dropout", "0" if options.elastic else "0.1"]  # ranks draw their own
    whole = unbroken(options.folder, [*job, "--save-steps", "400"])
    more = [*job, "--save-steps", "20", "--max-failures", "100"]
    if options.elastic:
        run = Run(options.folder / "run", make_cluster(1, 1), [*more, "--workers", "1-2"])
    else:
        run = Run(options.folder / "run", make_cluster(), more, PATIENT | FROZEN)
    try:
        began = time.time()
        run.start()
        harms = harm_until_its_end(run, options.every_s, ELASTIC if options.elastic else SIGNALS)
        print_result(run, began, time.time(), harms)
        print(verdict(run, whole))
    finally:
        if run.process.poll() is None:
            run.process.kill()
        run.cluster.shutdown()


def harm_until_its_end(run: Run, every_s: float, kinds: tuple[Harm, ...]) -> list[tuple[float, str]]:
    """Does harm again and again; when, and which."""
    done = []
    for kind in itertools.cycle(kinds):
        try:
            code = run.process.wait(every_s)
        except subprocess.TimeoutExpired:
            at = time.time()
            done.append((at, kind(run)))
        else:
            assert code == 0, f"see {run.folder}.log"
            return done
    raise AssertionError("the cycle has no end")


def print_result(run: Run, began: float, ended: float, harms: list[tuple[float, str]]) -> None:
    """Prints each harm with the seconds that it cost, and the share of the time that was well spent."""
    diary = run.diary()
    spent = seconds_by_step(diary)
    usual = statistics.median(spent.values())
    for harm, name in harms:
        print(f"{name}: {run.seconds_to_step(harm)} s to the first new step")
    groups = len({line["pid"] for line in diary if line["rank"] == 0})
    print(f"{groups} worker groups, {len(spent)} steps of {usual:.3f} s, {ended - began:.0f} s in all")
    print(f"effective time: {sum(spent.values()) / (ended - began):.3f}")
    calm = statistics.median(seconds_by_step(before(diary, harms)).values())
    since = ended - min(line["time"] for line in diary)
    print(
        f"at the rate before the first harm ({calm:.3f} s a step) its steps take "
        f"{calm * len(spent) / (ended - began):.3f} of that time, {calm * len(spent) / since:.3f} of the time "
        "since the first step"
    )


def before(diary: list[dict[str, Any]], harms: list[tuple[float, str]]) -> list[dict[str, Any]]:
    """What was written down before the first harm."""
    return [line for line in diary if not harms or line["time"] < harms[0][0]]


def seconds_by_step(diary: list[dict[str, Any]]) -> dict[int, float]:
    """How long each step took rank 0, the last time that it was done."""
    first = [line for line in diary if line["rank"] == 0]
    return {
        line["step"]: line["time"] - before["time"]
        for before, line in itertools.pairwise(first)
        if line["pid"] == before["pid"]
    }


if __name__ == "__main__":
    main()
