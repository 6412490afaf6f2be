"""Holds boards and alert rules against a real Prometheus that scrapes a training and a search.

    RAY_ADDRESS=local python tests/validate_boards.py PROMETHEUS [--folder FOLDER] [--draw FOLDER]

PROMETHEUS is a folder with `prometheus` and `promtool` (Debian's package `prometheus` has them in /usr/bin; `apt-get
download` and `dpkg-deb -x` need no rights). `promtool` parses every expression. Then a cluster of this machine trains a
tiny model, loses a worker, and searches; Prometheus scrapes it and evaluates every expression over that time. It fails
where an expression does not parse, gives no series, or an alert rule cannot be evaluated. Takes a minute or two. `--draw`
writes a page for each board with what its panels would show.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
import yaml
from transformers import TrainerCallback

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE / "faults")]

import job  # noqa: E402

import runtime_helpers  # noqa: E402
from draw_boards import draw  # noqa: E402
from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses  # noqa: E402

MONITORING = HERE.parent / "clusters" / "monitoring"
SCRAPE_S, STEP_S = 2, 0.3
ADDRESS = "127.0.0.1:19090"


def expressions(board: Path) -> Iterator[tuple[str, str]]:
    """Title and expression of each panel and variable, with every value of each variable chosen."""
    described = json.loads(board.read_text())
    variables = {v["name"]: v for v in described["templating"]["list"] if v["type"] == "query"}
    for name, variable in variables.items():
        metric, _, label = (
            variable["definition"].removeprefix("label_values(").removesuffix(")").partition(", ")
        )
        yield f"${name}", f"group by ({label}) ({metric})"
    for panel in described["panels"]:
        for target in panel["targets"]:
            yield panel["title"], of_all(target["expr"])


def of_all(expression: str) -> str:
    """An expression with every value of each variable chosen."""
    return re.sub(r"\$\w+", ".+", expression)


def everything() -> dict[str, list[tuple[str, str]]]:
    return {board.stem: list(expressions(board)) for board in sorted(MONITORING.glob("*.json"))}


def parse(tools: Path, folder: Path) -> None:
    """Has promtool read the alert rules, and each expression of a board as a rule that records it."""
    rules = [
        {"record": f"{board}:{number}", "expr": expression}
        for board, named in everything().items()
        for number, (_, expression) in enumerate(named)
    ]
    file = folder / "boards.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))
    subprocess.run([tools / "promtool", "check", "rules", MONITORING / "alerts.yaml", file], check=True)


@contextmanager
def prometheus(tools: Path, folder: Path) -> Iterator[None]:
    """A Prometheus on loopback that scrapes the nodes of this cluster."""
    targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes()]
    settings = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    command = [
        tools / "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={ADDRESS}",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def ask(path: str, **arguments: Any) -> Any:
    with urllib.request.urlopen(
        f"http://{ADDRESS}/api/v1/{path}?{urllib.parse.urlencode(arguments)}", timeout=30
    ) as answer:
        return json.load(answer)["data"]


class Slow(TrainerCallback):
    """Makes steps long enough to be scraped."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        threading.Event().wait(STEP_S)


def make_trainer(folder: Path, **options: Any) -> SentenceTransformerTrainer:
    def make_model(trial: Any = None) -> Any:
        return job.make_model(folder / "encoder")

    rows = job.rows()
    arguments: dict[str, Any] = {"max_steps": 40, "logging_steps": 2, **options.pop("arguments", {})}
    return SentenceTransformerTrainer(
        args=SentenceTransformerTrainingArguments(
            per_device_train_batch_size=8, eval_strategy="steps", eval_steps=10, report_to="none", **arguments
        ),
        train_dataset=rows,
        eval_dataset=rows.select(range(64)),
        loss=losses.MultipleNegativesRankingLoss,
        model_init=make_model,
        callbacks=[Slow(), *options.pop("callbacks", [])],
        **options,
    )


def work(folder: Path) -> None:
    """A training of two workers, one of which is killed, and a search with a trial that is stopped early."""
    make_trainer(
        folder,
        arguments={"output_dir": str(folder / "training"), "save_steps": 10},
        callbacks=[runtime_helpers.KillOnce(22, folder / "killed")],
        scaling_config=ray.train.ScalingConfig(num_workers=2),
    ).train()
    make_trainer(
        folder, arguments={"output_dir": str(folder / "search"), "save_strategy": "no"}
    ).hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-9, 1e-2, log=True)},
        "eval_loss",
        n_trials=0,
        points_to_evaluate=[{"learning_rate": rate} for rate in (3e-3, 1e-9, 1e-2, 1e-8)],
        rungs=4,
        reduction_factor=2,
        max_concurrent_trials=1,
        name="search",
    )


def series(expression: str, start: float, end: float) -> Any:
    """What Prometheus has for an expression over a time."""
    return ask("query_range", query=of_all(expression), start=start, end=end, step=SCRAPE_S)["result"]


def evaluate(start: float, end: float) -> list[str]:
    """Every expression over a time; what is wrong."""
    faults = []
    for board, named in everything().items():
        for title, expression in named:
            found = series(expression, start, end)
            print(f"{board:10}{len(found):4} series  {title:30} {expression}")
            if not found:
                faults.append(f"{board}: {title}: no series: {expression}")
    for group in ask("rules")["groups"]:
        for rule in group["rules"]:
            print(f"alert     {rule['health']:>10}  {rule['name']:30} {rule['state']}")
            if rule["health"] != "ok":
                faults.append(f"{rule['name']}: {rule.get('lastError', 'was not evaluated')}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prometheus", type=Path)
    parser.add_argument("--folder", type=Path, help="where to leave Prometheus' data, to look at its pages")
    parser.add_argument("--draw", type=Path, help="folder for a page of each board")
    options = parser.parse_args()
    for module in (job, runtime_helpers):
        ray.cloudpickle.register_pickle_by_value(module)
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        parse(options.prometheus, folder)
        ray.init(num_cpus=4, log_to_driver=False, _system_config={"metrics_report_interval_ms": 1000})
        with prometheus(options.prometheus, folder):
            start = time.time()
            work(folder)
            threading.Event().wait(3 * SCRAPE_S)
            end = time.time()
            faults = evaluate(start, end)
            for board in MONITORING.glob("*.json") if options.draw else ():
                draw(board, partial(series, start=start, end=end), options.draw / f"{board.stem}.html")
        ray.shutdown()
    print("\n".join(faults) or "every expression has series, every alert rule is evaluated")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
