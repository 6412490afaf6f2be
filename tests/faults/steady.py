"""Harms one long run again and again, and prints the share of its time that was well spent.

    RAY_ADDRESS= python tests/faults/steady.py --folder /tmp/steady [--minutes 20] [--every-s 180]

Workers are killed, told to end, and stopped, in turns. Well spent is the time in steps that count: of a step that was done
twice the second one does, as the first was lost. The rest is the start of the run, what was lost, and what it took to go on.
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
from pathlib import Path
from typing import Any

from drill import EPOCH, FROZEN, PATIENT, Run, make_cluster, unbroken, verdict

STEP_S = 0.27
"""About what a step of the job takes, with its wait."""
HARMS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)


def main() -> None:
    """Hold the run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--every-s", type=float, default=180)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.folder / "run", ignore_errors=True)  # the unbroken run is kept
    for left in options.folder.glob("run.*"):
        left.unlink()
    steps = round(options.minutes * 60 / STEP_S / EPOCH) * EPOCH
    whole = unbroken(options.folder, ["--steps", str(steps), "--save-steps", "400"])
    more = ["--steps", str(steps), "--save-steps", "20", "--max-failures", "100"]
    cluster = make_cluster()
    run = Run(options.folder / "run", cluster, more, PATIENT | FROZEN)
    try:
        began = time.time()
        run.start()
        harms = harm_until_its_end(run, options.every_s)
        print_result(run, began, time.time(), harms)
        print(verdict(run, whole))
    finally:
        if run.process.poll() is None:
            run.process.kill()
        cluster.shutdown()


def harm_until_its_end(run: Run, every_s: float) -> list[tuple[float, str]]:
    """Does harm again and again; when, and which."""
    done = []
    for number, rank in zip(itertools.cycle(HARMS), itertools.cycle((1, 1, 1, 0, 0, 0))):
        try:
            code = run.process.wait(every_s)
        except subprocess.TimeoutExpired:
            now = {line["rank"]: line["pid"] for line in run.diary()}
            os.kill(now[rank], number)
            done.append((time.time(), f"{number.name} to rank {rank}"))
        else:
            assert code == 0, f"see {run.folder}.log"
            return done
    raise AssertionError("the cycle has no end")


def print_result(run: Run, began: float, ended: float, harms: list[tuple[float, str]]) -> None:
    """Prints each harm with the seconds that it cost, and the share of the time that was well spent."""
    spent = seconds_by_step(run.diary())
    usual = statistics.median(spent.values())
    pids = {line["pid"] for line in run.diary()}
    for harm, name in harms:
        print(f"{name}: {run.seconds_to_step(harm)} s to the first new step")
    well = sum(spent.values())
    print(
        f"{len(pids) // 2} worker groups, {len(spent)} steps of {usual:.3f} s, {ended - began:.0f} s in all"
    )
    print(f"effective time: {well / (ended - began):.3f}")


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
