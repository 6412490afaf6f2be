"""Breaks training runs on purpose, on a local cluster of several nodes, and prints what came of it.

    RAY_ADDRESS= python tests/faults/drill.py [--only sigkill node ...] [--folder /tmp/drill]

Each drill starts :mod:`job` as a driver of its own, waits until it is in mid-run, does its harm, and lets it end, with
`--continue` where the driver was lost. Then: seconds from the harm to the first step of the workers that replaced the
lost ones (imports counted), the ledger against an unbroken run's, and how far the weights are from that run's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray.cluster_utils import Cluster

from ray_st.util.endings import INTERRUPTED

HERE = Path(__file__).parent
MID = 13
"""The step after which harm is done; checkpoints are of every fifth step."""
EPOCH = 40
"""Steps of an epoch of the job."""

pause = threading.Event().wait


class DrillFailed(Exception):
    """A run did not come to where it was to be harmed."""


@dataclass
class Run:
    """A job on a cluster."""

    folder: Path
    cluster: Any
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    process: Any = None

    def start(self, *more: str) -> None:
        environment = {
            **os.environ,
            "RAY_ADDRESS": self.cluster.address,
            "RAY_ST_LOG_FORMAT": "json",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
            **self.environment,
        }
        command = [sys.executable, str(HERE / "job.py"), str(self.folder), *self.options, *more]
        with (self.folder.parent / f"{self.folder.name}.log").open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def diary(self) -> list[dict[str, Any]]:
        path = self.folder.parent / f"{self.folder.name}.diary"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def at(self, step: int, limit_s: float = 600.0) -> dict[int, dict[str, Any]]:
        """Waits for a step; where each rank is."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self.process.poll() is None:
            if any(line["step"] >= step for line in self.diary()):
                return {line["rank"]: line for line in self.diary()}
            pause(0.05)
        raise DrillFailed(f"step {step} was not reached; see {self.folder}.log")

    def end(self, limit_s: float = 600.0) -> int:
        return int(self.process.wait(limit_s))

    def seconds_to_step(self, harm: float) -> float | None:
        """From the harm to the first step of processes that were not there before."""
        old = {line["pid"] for line in self.diary() if line["time"] <= harm}
        starts = {line["pid"] for line in self.diary() if line["pid"] not in old}
        began = {pid: min(line["step"] for line in self.diary() if line["pid"] == pid) for pid in starts}
        steps = [
            line["time"]
            for line in self.diary()
            if line["pid"] in starts and line["step"] > began[line["pid"]]
        ]
        return min(steps) - harm if steps else None

    def events(self) -> Iterator[dict[str, Any]]:
        for line in (self.folder.parent / f"{self.folder.name}.log").read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)


Drill = Callable[[Run], tuple[float, str]]
"""Does harm to a run that was started, and sees it to its end; gives the time of the harm, and what happened."""


def kill(number: int) -> Drill:
    def drill(run: Run) -> tuple[float, str]:
        ranks = run.at(MID)
        harm = time.time()
        os.kill(ranks[1]["pid"], number)
        return harm, f"exit code {run.end()}"

    return drill


def own_fault(run: Run) -> tuple[float, str]:
    """The job does the harm itself, at step 12."""
    run.at(12)
    harm = time.time()
    return harm, f"exit code {run.end()}"


def nan_loss(run: Run) -> tuple[float, str]:
    run.at(12)
    harm, code = time.time(), run.end()
    run.start("--continue")
    return harm, f"exit code {code}, rows named; resumed: {run.end()}"


def node(run: Run) -> tuple[float, str]:
    lost = run.at(MID)[1]["node"]
    harm = time.time()
    run.cluster.remove_node(_node(run.cluster, lost), allow_graceful=False)
    return harm, f"exit code {run.end()}"


def drain(run: Run) -> tuple[float, str]:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    lost = run.at(MID)[1]["node"]
    harm = time.time()
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    GcsClient(run.cluster.address).drain_node(lost, reason, "drill", int((harm + 90) * 1000))
    return harm, f"exit code {run.end()}"


def _node(cluster: Any, node_id: str) -> Any:
    return next(node for node in cluster.list_all_nodes() if node.node_id == node_id)


def driver(number: int) -> Drill:
    def drill(run: Run) -> tuple[float, str]:
        run.at(MID)
        harm = time.time()
        run.process.send_signal(number)
        code = run.end()
        stopped = time.time() - harm
        run.start("--continue")
        return harm, f"exit code {code} after {stopped:.0f} s; started again: {run.end()}"

    return drill


def whole_cluster(run: Run) -> tuple[float, str]:
    run.at(MID)
    harm = time.time()
    run.cluster.shutdown()
    code = run.end()
    run.cluster = make_cluster()
    run.start("--continue")
    return harm, f"exit code {code}; on a new cluster: {run.end()}"


def head(run: Run) -> tuple[float, str]:
    """The head's server dies and is back after 5 s with the state that it kept on disk; meanwhile a worker dies as well."""
    ranks = run.at(MID)
    harm = time.time()
    run.cluster.head_node.kill_gcs_server()
    os.kill(ranks[1]["pid"], signal.SIGKILL)
    pause(5)
    run.cluster.head_node.start_gcs_server()
    return harm, f"exit code {run.end()}"


def corrupt(run: Run) -> tuple[float, str]:
    ranks = run.at(MID)
    weights = run.folder / "checkpoint-10" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    harm = time.time()
    os.kill(ranks[1]["pid"], signal.SIGKILL)
    code = run.end()
    named = [event["reason"] for event in run.events() if event["event"] == "checkpoint.passed_over"]
    assert any(str(weights) in reason for reason in named), named
    return harm, f"exit code {code}; checkpoint-10 passed over, its file named"


def storage_away(run: Run) -> tuple[float, str]:
    run.at(MID)
    away = run.folder.with_name("away")
    shutil.rmtree(away, ignore_errors=True)  # an earlier drill's
    harm = time.time()
    run.folder.rename(away)
    run.folder.write_text("no folder")
    pause(30)
    run.folder.unlink()
    shutil.copytree(away, run.folder, dirs_exist_ok=True)
    code = run.end()
    if code == INTERRUPTED:  # Ray Train's controller met it: a checkpoint was reported up to 2 s before
        run.start("--continue")
        return harm, f"exit code {code}; went on with `--continue`: {run.end()}"
    return harm, f"exit code {code}"


def full_disk(run: Run) -> tuple[float, str]:
    """Takes all room on the run's own small disk for a while; needs the right to mount one."""
    run.at(MID)
    harm, filler = time.time(), run.folder / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 16))
    run.at(28)
    filler.unlink()
    code = run.end()
    kept = sorted(int(path.parent.name[11:]) for path in run.folder.glob("checkpoint-*/manifest.json"))
    return harm, f"exit code {code}; complete checkpoints: {kept}"


def data_worker(run: Run) -> tuple[float, str]:
    """Kills what plans epochs while the second one runs: it starts with that one, and the third needs it again."""
    run.at(EPOCH + MID)
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    mine = [line.split() for line in found.splitlines() if "ray::PlannerActor" in line]
    harm = time.time()
    for words in mine:
        os.kill(int(words[0]), signal.SIGKILL)
    return harm, f"{len(mine)} killed; exit code {run.end()}"


def object_store(run: Run) -> tuple[float, str]:
    filler = (
        "import ray, numpy, time\nray.init(logging_level='error')\n"
        "kept = [ray.put(numpy.ones(5_000_000)) for _ in range(12)]\nprint(len(kept)); time.sleep(10)"
    )
    run.at(MID)
    harm = time.time()
    environment = {**os.environ, "RAY_ADDRESS": run.cluster.address}
    subprocess.run([sys.executable, "-c", filler], env=environment, check=True, capture_output=True)
    return harm, f"480 MB into a store of 150; exit code {run.end()}"


def other_size(workers: int) -> Drill:
    def drill(run: Run) -> tuple[float, str]:
        run.at(MID)
        harm = time.time()
        run.process.send_signal(signal.SIGTERM)
        code = run.end()
        run.start("--continue", "--workers", str(workers))
        return harm, f"exit code {code}; on {workers}: {run.end()}"

    return drill


PATIENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
FROZEN = {"RAY_ST_STEP_LIMIT_S": "8"}

DRILLS: dict[str, tuple[Drill, list[str], dict[str, str]]] = {
    "sigkill": (kill(signal.SIGKILL), [], {}),
    "sigterm": (kill(signal.SIGTERM), [], {}),
    "sigstop": (kill(signal.SIGSTOP), [], FROZEN),
    "hang": (own_fault, ["--fault", "hang"], FROZEN),
    "node": (node, [], {}),
    "node-spare": (node, [], {}),
    "drain": (drain, [], {}),
    "driver-sigterm": (driver(signal.SIGTERM), [], {}),
    "driver-sigkill": (driver(signal.SIGKILL), [], {}),
    "cluster": (whole_cluster, [], {}),
    "head": (head, [], {}),
    "corrupt": (corrupt, [], {}),
    "storage": (storage_away, [], {}),
    "storage-between": (storage_away, ["--steps", "160", "--save-steps", "40"], {}),
    "full-disk": (full_disk, [], {}),
    "nan": (nan_loss, ["--fault", "nan"], {}),
    "data-worker": (data_worker, ["--steps", "120"], {}),
    "object-store": (object_store, [], {}),
    "fewer": (other_size(1), [], {}),
    "more": (other_size(2), ["--workers", "1"], {}),
}

SEVERAL = {"node": (0, 2, 2), "node-spare": (1, 2, 2), "drain": (0, 2, 2)}
"""CPUs of each node, for drills that take one away; with a spare CPU or without: lost rows are made again by tasks."""


def make_cluster(*nodes: int, kept: Path | None = None) -> Any:
    """A cluster with so many CPUs on its head and on each further node; its state is kept in a folder if there is one."""
    cluster = Cluster()
    for number, cpus in enumerate(nodes or (4,)):
        add_node(cluster, cpus, **(kept_in(kept) if kept and number == 0 else {}))
    cluster.wait_for_nodes()
    return cluster


def add_node(cluster: Any, cpus: int, **only_head: Any) -> None:
    """Adds a node, the first of which is the head."""
    # Where another cluster has the default port, Ray leaves a socket open; without one it finds a free port.
    same = {"object_store_memory": 150_000_000, "include_dashboard": False, "dashboard_port": None}
    cluster.add_node(num_cpus=cpus, **same, **only_head)


def kept_in(folder: Path) -> dict[str, Any]:
    """Settings of a head whose server can be started again: where its state is, and a port that stays."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stored = {"gcs_storage": "rocksdb", "gcs_storage_path": str(folder)}
    return {"gcs_server_port": port, "_system_config": stored}


def ledger(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def verdict(run: Run, whole: Path) -> str:
    mine, unbroken = ledger(run.folder), ledger(whole)
    rows = (
        "same rows in the same steps"
        if mine == unbroken
        else f"OTHER ROWS ({len(mine)}/{len(unbroken)} steps)"
    )
    ours, theirs = (torch.load(folder / "weights.pt") for folder in (run.folder, whole))
    return f"{rows}; weights {max(float((ours[name] - theirs[name]).abs().max()) for name in ours):.0e} apart"


def unbroken(folder: Path, options: list[str]) -> Path:
    """The folder of a run of the same job that nothing happened to; it is run once."""
    defaults = {"--steps": str(EPOCH), "--workers": "2", "--save-steps": "5", "--dropout": "0.1"}
    given = dict(zip(options[::2], options[1::2], strict=True))
    same = {name: given.get(name, value) for name, value in defaults.items()}
    whole = folder / "-".join(["whole", *same.values()])
    if not (whole / "weights.pt").exists():
        cluster = make_cluster()
        run = Run(whole, cluster, [*itertools.chain(*same.items()), "--step-s", "0"], PATIENT)
        run.start()
        assert run.end() == 0, f"see {whole}.log"
        cluster.shutdown()
    return whole


def hold(name: str, folder: Path) -> str:
    """Holds one drill; the row of the table."""
    drill, options, environment = DRILLS[name]
    shutil.rmtree(folder / name, ignore_errors=True)
    for left in folder.glob(f"{name}.*"):
        left.unlink()
    whole = unbroken(folder, options)
    kept = folder / f"{name}-state" if drill is head else None
    if kept:  # a new head would take up an old one's session
        shutil.rmtree(kept, ignore_errors=True)
    run = Run(folder / name, make_cluster(*SEVERAL.get(name, ()), kept=kept), options, PATIENT | environment)
    if drill is full_disk:
        run.folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(run.folder)], check=True)
    run.start()
    try:
        harm, happened = drill(run)
        seconds = run.seconds_to_step(harm)
        shown = "no new process" if seconds is None else f"{seconds:.1f}"
        return f"| {name} | {happened} | {shown} | {verdict(run, whole)} |"
    finally:
        if run.process.poll() is None:
            run.process.kill()
        run.cluster.shutdown()
        if drill is full_disk:
            subprocess.run(["umount", str(run.folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=DRILLS, default=list(DRILLS))
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(
        "| harm | what happened | s to the first new step | ledger and weights |\n| --- | --- | ---: | --- |"
    )
    for name in options.only:
        try:
            print(hold(name, options.folder), flush=True)
        except (DrillFailed, AssertionError, OSError, subprocess.TimeoutExpired) as error:
            print(f"| {name} | FAILED: {error} | | |", flush=True)


if __name__ == "__main__":
    main()
