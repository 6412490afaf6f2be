"""Runs the entrypoint of a rendered RayJob on three hosts, kills one of them in mid-run, and shows who is refused.

    sudo python tests/clusters/drill.py --model MODEL_FOLDER --s3 "python -m moto.server"

Hosts are namespaces (network, processes, mounts) joined by a bridge; a fourth holds an S3-compatible server, started by
the command of `--s3` with `-H ADDRESS -p PORT` added. Each host has a /tmp of its own, so nothing that is given may lie
there. Linux and root only. Nothing outside the namespaces is touched but the folder of `--folder`. Prints what happened
as one JSON object; fails if something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from hosts import NET, Host, bridge, host

from ray_st.cli.clusters.manifests import render, shipped
from ray_st.cli.clusters.spec import as_spec

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STORE, PORT = f"{NET}.9", 5000
DESCRIPTION = {
    "kind": "train",
    "name": "sts",
    "image": "example.com/ray-st:0.1.0-cpu",
    "run": "run.yaml",
    "storage": {"bucket": "s3://runs"},
}
RUN = """
model: {path: MODEL, max_seq_length: 32}
data: {train: {path: s3://runs/data/train.csv, columns: [sentence1, sentence2, score]}}
loss: CoSENTLoss
args:
  num_train_epochs: EPOCHS
  per_device_train_batch_size: 8
  learning_rate: 1e-4
  save_steps: 10
  logging_steps: 1
  report_to: none
  use_cpu: true
  seed: 7
scaling: {num_workers: 2, resources_per_worker: {CPU: 1}, placement_strategy: SPREAD}
run: {max_failures: 3}
"""
pause = threading.Event().wait


def until(what: str, found: Callable[[], Any], limit: float = 600) -> Any:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if value := found():
            return value
        pause(0.2)
    raise SystemExit(f"after {limit:.0f} s still no {what}")


def entrypoint(name: str) -> str:
    """The entrypoint of the rendered job."""
    objects = render(as_spec(DESCRIPTION | {"name": name}, "drill"), RUN, shipped("kuberay"), "drill")
    (job,) = [one for one in objects if one["kind"] == "RayJob"]
    return str(job["spec"]["entrypoint"])


def start_nodes(head: Host, workers: list[Host]) -> float:
    begin = time.monotonic()
    common = ["--object-store-memory=120000000", "--disable-usage-stats"]
    start = [f"{BIN}/ray", "start", f"--node-ip-address={head.address}", *common]
    head.must(*start, "--head", "--num-cpus=0", f"--dashboard-host={head.address}", "--port=6379")
    for worker in workers:
        start = [f"{BIN}/ray", "start", f"--node-ip-address={worker.address}", *common]
        worker.must(*start, f"--address={head.address}:6379", "--num-cpus=2")
    return time.monotonic() - begin


def listening(one: Host) -> list[str]:
    """What listens on a host: the process and whether others can reach it."""
    found = set()
    for line in one.must("ss", "-ltnpH").splitlines():
        address = line.split()[3].rpartition(":")[0].strip("[]").removeprefix("::ffff:")
        name = re.search(r'"([^"]+)"', line)
        kind = "loopback" if address.startswith("127.") or address == "::1" else address
        found.add(f"{name[1] if name else '?'} on {kind}")
    return sorted(found)


def submit(head: Host, name: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Submits a job as the operator's submitter does: the entrypoint goes through its shell."""
    words = f"{BIN}/ray job submit --address http://{head.address}:8265 -- {entrypoint(name)}"
    with log.open("wb") as file:
        return subprocess.Popen(
            head.command("bash", "-c", words, **environment), stdout=file, stderr=subprocess.STDOUT
        )


def events(log: Path) -> list[dict[str, Any]]:
    """What a job has told of itself so far."""
    found = re.findall(r"\{\"time\": .*\}", log.read_text(errors="replace"))
    return [json.loads(line) for line in found]


def seconds(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


STORED = """
import hashlib, sys
from pyarrow.fs import FileSelector, FileSystem
store, path = FileSystem.from_uri(sys.argv[1])
infos = store.get_file_info(FileSelector(path, recursive=True))
found = [info.path.split("/")[2] for info in infos if info.path.endswith("/manifest.json")]
last = max(found, key=lambda name: int(name.rpartition("-")[2]))
print(last, hashlib.sha256(store.open_input_stream(f"{path}/{last}/model.safetensors").read()).hexdigest())
"""


def stored(head: Host, name: str) -> list[str]:
    """A run's newest complete checkpoint in the store, and a hash of its weights."""
    return head.must(sys.executable, "-c", STORED, f"s3://runs/{name}").split()


FILL_STORE = """
import sys
from pyarrow.fs import FileSystem
store, _ = FileSystem.from_uri("s3://runs/?allow_bucket_creation=true")
store.create_dir("runs")
with open(sys.argv[1], "rb") as rows, store.open_output_stream("runs/data/train.csv") as stream:
    stream.write(rows.read())
"""


def serve(store: Host, head: Host, command: str, log: Path) -> None:
    """Starts the S3-compatible server, which ends with its host."""
    words = [*shlex.split(command), "-H", STORE, "-p", str(PORT)]
    with log.open("wb") as file:
        path = os.environ.get("PYTHONPATH", "")
        subprocess.Popen(store.command(*words, PYTHONPATH=path), stdout=file, stderr=subprocess.STDOUT)
    opens = f"exec 3<>/dev/tcp/{STORE}/{PORT}"
    until("answer of the store", lambda: head.run("bash", "-c", opens).returncode == 0)
    head.must(sys.executable, "-c", FILL_STORE, str(ROOT / "examples/data/sts_train.csv"))


def examined(head: Host) -> list[str]:
    """What the doctor finds in the cluster and its store."""
    words = ["doctor", "--json", "--address", f"{head.address}:6379", "--storage", "s3://runs/probe"]
    done = head.run(f"{BIN}/ray-st", *words)
    if "[\n" not in done.stdout:
        raise SystemExit(f"the doctor ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    found = json.loads(done.stdout[done.stdout.index("[\n") :])
    return ["{level} {check} {where}: {found}".format_map(finding) for finding in found]


def refusals(head: Host, outside: Host) -> dict[str, str]:
    """What becomes of clients on another host without the token, and with a wrong one."""
    url = f"http://{head.address}:8265"
    connect = f"import ray; ray.init('{head.address}:6379'); print('connected')"
    found = {}
    for who, settings in {
        "without a token": {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""},
        "with a wrong token": {"RAY_AUTH_TOKEN": secrets.token_hex(32)},
    }.items():
        submitted = outside.run(f"{BIN}/ray", "job", "submit", "--address", url, "--", "true", **settings)
        begin = time.monotonic()
        driver = outside.run(sys.executable, "-c", connect, **settings)
        took = time.monotonic() - begin
        if not submitted.returncode or not driver.returncode:
            raise SystemExit(f"a client {who} got in")
        reason = re.findall(r"^ray\S*Error: (.*)", submitted.stdout + submitted.stderr, re.MULTILINE)
        last = (driver.stderr.strip().splitlines() or ["killed"])[-1]
        found[f"job {who}"] = reason[0] if reason else submitted.stderr.strip().splitlines()[-1]
        found[f"driver {who}"] = f"{last[:160]} (after {took:.0f} s)"
    return found


def killed(head: Host, victim: Host, log: Path) -> dict[str, Any]:
    """Runs the job, kills a host after the first checkpoint, and sees the job to its end."""
    process = submit(head, "sts", log)
    until("checkpoint", lambda: [e for e in events(log) if e["event"] == "checkpoint.written"])
    harm = time.time()
    victim.kill()
    ends(process, log)
    told = events(log)
    begin = max(seconds(event) for event in told if event["event"] in ("workers.lost", "workers.started"))
    before = [event["step"] for event in told if "step" in event and seconds(event) <= harm]
    again = next(
        event for event in told if event["event"] == "train.figures" and seconds(event) > max(begin, harm)
    )
    return {
        "killed at step": max(before),
        "first new step": again["step"],
        "seconds from the kill to it": round(seconds(again) - harm, 1),
        "events": [event["message"] for event in told if event["event"].startswith("workers.")],
    }


def ends(process: subprocess.Popen[bytes], log: Path) -> float:
    begin = time.monotonic()
    code = process.wait(timeout=900)
    if code:
        raise SystemExit(f"the job ended with {code}:\n{log.read_text(errors='replace')[-4000:]}")
    return time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--s3", required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no namespace behind
    folder = options.folder or Path(tempfile.mkdtemp(prefix="ray_st-drill-", dir="/var/tmp"))
    folder.mkdir(exist_ok=True)
    text = RUN.replace("MODEL", str(options.model.absolute()))
    (folder / "run.yaml").write_text(text.replace("EPOCHS", str(options.epochs)))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {
        "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_ST_LOG_FORMAT": "json",
        "RAY_memory_monitor_refresh_ms": "0",  # it sees the memory of the whole machine, not of a host
        "AWS_ACCESS_KEY_ID": "drill",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        "AWS_ENDPOINT_URL": f"http://{STORE}:{PORT}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with ExitStack() as stack:
        stack.enter_context(bridge())
        names = {"store": 9, "head": 1, "one": 2, "two": 3}
        hosts = {
            name: stack.enter_context(host(name, number, folder, environment))
            for name, number in names.items()
        }
        report = drill(hosts, folder, options.s3)
    print(json.dumps(report, indent=2))
    return 0


def drill(hosts: dict[str, Host], folder: Path, s3: str) -> dict[str, Any]:
    head, one, two = hosts["head"], hosts["one"], hosts["two"]
    serve(hosts["store"], head, s3, folder / "store.log")
    report: dict[str, Any] = {"nodes up, s": round(start_nodes(head, [one, two]), 1)}
    report["doctor"] = examined(head)
    report["refused"] = refusals(head, hosts["store"])
    report["listening"] = {name: listening(hosts[name]) for name in ("head", "one")}
    log = folder / "unbroken.log"
    report["unbroken run, s"] = round(ends(submit(head, "unbroken", log), log), 1)
    report["host killed"] = killed(head, two, folder / "killed.log")
    report["checkpoint and weights"] = {name: stored(head, name) for name in ("unbroken", "sts")}
    report["weights equal"] = stored(head, "unbroken") == stored(head, "sts")
    return report


if __name__ == "__main__":
    sys.exit(main())
