"""Searches for hyperparameters over four tasks: ours beside the peer's and beside random search with ASHA.

    python benchmarks/hpo.py search --data ../shared/data --results build/hpo.jsonl
    python benchmarks/hpo.py fidelities --data ../shared/data

``search``: for each seed and task the same space, model and rows on all sides, each in a process of its own. ``ours`` is
TPE with ``scheduler="halving"``, one in two goes on, evaluated at ninths; that rule was chosen on ``pairs`` (with other rows),
never on the other tasks. ``random`` draws at random and stops by ASHA, also ours. ``peer`` is its own Optuna search, one
trial after the other. What a search reports as best is partly luck. So what each one found, and the default arguments,
are trained again by one trainer, to the end, with three seeds that no search had: the *confirmed* value is their mean.
Searches that are in the file of results already are not repeated.

``fidelities``: how well cheap values predict the order of trials: earlier evaluations, fewer training rows, fewer pairs or
questions to evaluate. Spearman's correlation with the values at the end with all rows, over trials drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo_tasks import TASKS, peer_space, space

SIDES = ("ours", "random", "peer")
AGAIN = (101, 102, 103)
"""Seeds with which what was found is trained again; no search trains with them."""
RUNGS = 9
DEFAULTS = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "warmup_ratio": 0.0,
    "learning_rate": 5e-5,
}
"""What the training arguments are without a search."""


def main() -> None:
    """Runs what the command line names."""
    options = arguments()
    if options.side:
        os.environ.setdefault("RAY_ADDRESS", "local")  # never join a cluster that happens to run here
        warnings.simplefilter("ignore")
        print("RESULT " + json.dumps(RUN[options.side](options)), flush=True)
    elif options.command == "search":
        search(options)
    else:
        for task in options.tasks:
            print(f"{task}: {start(options, 'fidelities', task, 0)}", flush=True)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("search", "fidelities"))
    parser.add_argument("--data", type=Path, required=True, help="folder with stsb, sick and trecqa")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int, default=400, help="training rows")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--results", type=Path, default=Path("build/hpo.jsonl"))
    for name, kind in (("side", str), ("task", str), ("seed", int), ("points", json.loads)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


def start(options: argparse.Namespace, side: str, task: str, seed: int, points: Any = None) -> Any:
    """One side's part in a process of its own."""
    command = [sys.executable, *sys.argv, "--side", side, "--task", task, "--seed", str(seed)]
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the peer computes on all cores; Ray sees to ours
    environment = {name: value for name, value in os.environ.items() if name not in threads}
    done = subprocess.run(
        [*command, "--points", json.dumps(points)], capture_output=True, text=True, env=environment
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(
            f"{side} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-20000:]}"
        )
    return json.loads(line.removeprefix("RESULT "))


# ---- searches ----


def search(options: argparse.Namespace) -> None:
    """All searches that the file of results lacks, then the table."""
    options.results.parent.mkdir(parents=True, exist_ok=True)
    found = read(options.results)
    for seed in options.seeds:
        for task in options.tasks:
            if (task, seed) not in found:
                found[task, seed] = one_search(options, task, seed)
                with open(options.results, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"task": task, "seed": seed, **found[task, seed]}) + "\n")
                print(f"{task}, seed {seed}: {json.dumps(found[task, seed])}", flush=True)
    for task in options.tasks:
        show(task, [found[task, seed] for seed in options.seeds])


def read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Earlier results by task and seed."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(row.pop("task"), row.pop("seed")): row for row in map(json.loads, lines)}


def one_search(options: argparse.Namespace, task: str, seed: int) -> dict[str, Any]:
    """What each side finds, and what that gives with fresh seeds."""
    found: dict[str, Any] = {side: start(options, side, task, seed) for side in SIDES}
    found["default"] = {"values": DEFAULTS}
    points = [{**one["values"], "seed": fresh} for one in found.values() for fresh in AGAIN]
    values = start(options, "again", task, seed, points)
    for place, one in enumerate(found.values()):
        one["again"] = values[place * len(AGAIN) : (place + 1) * len(AGAIN)]
    return found


def show(task: str, runs: Sequence[dict[str, Any]]) -> None:
    """A task's table, medians over the seeds."""
    print(f"{task}: {len(runs)} seeds, {TASKS[task].metric}")
    for side in ("default", *SIDES):
        again = [run[side]["again"] for run in runs]
        line = f"  {side:8} confirmed {statistics.median(map(statistics.mean, again)):.4f}"
        line += f" (deviation over training seeds {statistics.median(map(statistics.stdev, again)):.4f})"
        if side != "default":
            best, rows, seconds = (
                statistics.median(run[side][name] for run in runs) for name in ("best", "rows", "seconds")
            )
            of_peer = [
                statistics.median(run[side][name] / run["peer"][name] for run in runs)
                for name in ("rows", "seconds")
            ]
            line += f", best {best:.4f}, rows {rows:,.0f} ({of_peer[0]:.0%} of the peer's)"
            line += f", seconds {seconds:.0f} ({of_peer[1]:.0%})"
        print(line)


def run_ours(options: argparse.Namespace, **search_options: Any) -> dict[str, Any]:
    """Our search."""
    task = TASKS[options.task]
    wanted = {"scheduler": "halving", "reduction_factor": 2, "rungs": RUNGS, **search_options}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        best = task.trainer(
            "ray_st", options.data, options.rows, folder, seed=options.seed
        ).hyperparameter_search(
            space, task.metric, options.trials, "maximize", backend="ray", seed=options.seed, **wanted
        )
        return {
            "best": best.objective,
            "rows": sum(trial.samples for trial in best.run_summary.trials),
            "seconds": time.monotonic() - begin,
            "values": best.hyperparameters,
        }


def run_random(options: argparse.Namespace) -> dict[str, Any]:
    """Random search with ASHA."""
    return run_ours(options, sampler="RandomSampler", scheduler="asha", reduction_factor=3)


def run_peer(options: argparse.Namespace) -> dict[str, Any]:
    """The peer's search."""
    import optuna

    task, counted = TASKS[options.task], {"rows": 0}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        trainer = task.trainer("sentence_transformers", options.data, options.rows, folder, seed=options.seed)

        def count(metrics: dict[str, float]) -> float:
            counted["rows"] += trainer.state.global_step * trainer.args.per_device_train_batch_size
            return metrics[task.metric]

        sampler = optuna.samplers.TPESampler(seed=options.seed)
        best = trainer.hyperparameter_search(
            peer_space, count, options.trials, "maximize", backend="optuna", sampler=sampler
        )
        seconds = time.monotonic() - begin
    # By the names in the space, warmup_ratio too.
    return {
        "best": best.objective,
        "rows": counted["rows"],
        "seconds": seconds,
        "values": best.hyperparameters,
    }


def run_again(options: argparse.Namespace) -> list[float]:
    """The values at the end of a training of each point."""
    return [trial.objectives[0] for trial in train_all(options, options.points, 1, options.rows)]


def train_all(
    options: argparse.Namespace, points: Sequence[dict[str, Any]], rungs: int, rows: int, **parts: int
) -> list[Any]:
    """Trains each point to its end; records by point."""
    task = TASKS[options.task]

    def anywhere(trial: Any) -> None:
        space(trial)
        trial.suggest_int("seed", 0, 1000)

    with tempfile.TemporaryDirectory() as folder:
        trainer = task.trainer("ray_st", options.data, rows, folder, {"dev": 1, **parts})
        best = trainer.hyperparameter_search(
            anywhere, task.metric, 0, "maximize", points_to_evaluate=points, scheduler=None, rungs=rungs
        )
        return sorted(best.run_summary.trials, key=lambda trial: trial.number)


# ---- fidelities ----


def run_fidelities(options: argparse.Namespace) -> dict[str, float]:
    """Correlations of cheap values with those at the end, over random points."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=options.seed))
    points = [{**space(study.ask()), "seed": 0} for _ in range(options.trials)]
    metric = TASKS[options.task].metric
    full = train_all(options, points, RUNGS, options.rows, half=2, quarter=4)
    found = {
        f"{rung}/{RUNGS} of the steps": [trial.history[rung - 1]["metrics"][metric] for trial in full]
        for rung in (1, 2, 4)
    }
    for name in ("half", "quarter"):
        at_the_end = [trial.history[-1]["metrics"][metric.replace("dev", name)] for trial in full]
        found[f"a {name} of what is evaluated"] = at_the_end
    for part in (2, 4):
        fewer = train_all(options, points, 1, options.rows // part)
        found[f"1/{part} of the rows"] = [trial.objectives[0] for trial in fewer]
    reseeded = train_all(options, [{**point, "seed": 1} for point in points], 1, options.rows)
    found["another seed"] = [trial.objectives[0] for trial in reseeded]
    return {
        name: correlation(values, [trial.objectives[0] for trial in full]) for name, values in found.items()
    }


def correlation(values: Sequence[float], others: Sequence[float]) -> float:
    """Spearman's, to three digits."""
    from scipy.stats import spearmanr

    return round(float(spearmanr(values, others).statistic), 3)


RUN = {
    "ours": run_ours,
    "random": run_random,
    "peer": run_peer,
    "again": run_again,
    "fidelities": run_fidelities,
}

if __name__ == "__main__":
    main()
