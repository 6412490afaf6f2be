"""Serves a model over HTTP with Ray Serve: an embedder's embeddings, or a reranker's scores.

    python examples/serve_embeddings.py models/mine --replicas 2          # a folder, or a name on the Hub
    python examples/serve_embeddings.py --offline                         # all-MiniLM-L6-v2 from its package
    curl http://127.0.0.1:8000/embed -d '{"texts": ["good weather"], "prompt_name": "query"}'
    curl http://127.0.0.1:8000/rank -d '{"query": "weather", "documents": ["rain", "pasta"]}'

A request goes through two deployments. ``Ingress`` checks it, so that a bad one is refused before it meets others, and
repeats it if the replica that computes it dies. ``Model`` holds the model; each of its replicas joins the requests that
arrive while it computes, and encodes all their texts at once. On a cluster, ``build`` is what a Serve configuration names
(``import_path: serve_embeddings:build``); see docs/serving.md.
"""

import argparse
import asyncio
import json
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response

ATTEMPTS = 3
"""Replicas that may die of a request before it is given up: a request that kills them must not kill all."""

PATHS = ("/embed", "/score", "/rank", "/health")


class Options(BaseModel):
    """What ``build`` takes: the keys of ``args`` in a Serve configuration, and the command line's options."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    model: str = Field(min_length=1, description="a model folder, or a name on the Hub")
    reranker: bool | None = Field(
        None, description="whether it is a reranker (default: inferred from its folder)"
    )
    backend: str = Field("torch", pattern="^(torch|onnx|openvino)$", description="torch, onnx or openvino")
    file_name: str | None = Field(None, description="file of the exported model, for onnx and openvino")
    replicas: int = Field(1, ge=1, description="processes that hold the model")
    cpus_per_replica: float = Field(1, ge=0, description="CPUs of each; also its threads, rounded")
    gpus_per_replica: float = Field(0, ge=0, description="GPUs of each; 0.25 puts four on one GPU")
    ingresses: int = Field(1, ge=1, description="processes that check requests and pass them on")
    cpus_per_ingress: float = Field(0, ge=0, description="CPUs of each")
    batch_size: int = Field(32, ge=1, description="texts, or pairs, that the model computes at once")
    joined_texts: int = Field(
        256, ge=1, description="texts of several requests encoded together; 1 joins none"
    )
    request_texts: int = Field(256, ge=1, description="most texts, or pairs, of one request")
    request_bytes: int = Field(2**21, ge=1, description="longest body of a request, in bytes")
    ongoing: int = Field(64, ge=1, description="requests that a replica holds, computed or waiting")
    queue: int = Field(256, ge=0, description="requests that wait in an ingress; beyond it answers 503")


# ---- requests ----


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: What was expected, found, and where.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Embed(BaseModel):
    """Body of /embed."""

    model_config = ConfigDict(extra="forbid")
    texts: list[str] = Field(min_length=1)
    prompt_name: str | None = None


class Score(BaseModel):
    """Body of /score."""

    model_config = ConfigDict(extra="forbid")
    pairs: list[tuple[str, str]] = Field(min_length=1)
    prompt_name: str | None = None


class Rank(BaseModel):
    """Body of /rank."""

    model_config = ConfigDict(extra="forbid")
    query: str
    documents: list[str] = Field(min_length=1)
    top_k: int | None = Field(None, ge=1)
    prompt_name: str | None = None


def read(path: str, body: bytes, most: int) -> Embed | Score | Rank:
    """A request's body, checked.

    Args:
        path: "/embed", "/score" or "/rank".
        body: JSON in UTF-8.
        most: Texts, or pairs, that a request may have.

    Raises:
        Refusal: If it is not what the path takes.
    """
    kind: Any = {"/embed": Embed, "/score": Score, "/rank": Rank}[path]
    try:
        asked = kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise Refusal(400, f"{path}: {where}: {first['msg']}") from error
    if len(inputs_of(asked)) > most:
        found = len(inputs_of(asked))
        raise Refusal(
            400, f"{path}: expected at most {most} texts or pairs, found {found}; send several requests"
        )
    return asked


def inputs_of(asked: Embed | Score | Rank) -> list[Any]:
    """The texts or pairs of a request."""
    if isinstance(asked, Embed):
        return asked.texts
    return asked.pairs if isinstance(asked, Score) else [(asked.query, text) for text in asked.documents]


def answer_of(asked: Embed | Score | Rank, rows: np.ndarray) -> dict[str, Any]:
    """The answer's JSON.

    Args:
        asked: The request.
        rows: Embeddings (n, d), or scores (n,) or (n, c).

    Raises:
        Refusal: If documents cannot be ranked by several scores each.
    """
    if isinstance(asked, Embed):
        return {"embeddings": rows.tolist()}
    if isinstance(asked, Score):
        return {"scores": rows.tolist()}
    if rows.ndim > 1:
        raise Refusal(400, f"/rank: this reranker gives {rows.shape[1]} scores for a pair; use /score")
    order = np.argsort(-rows, kind="stable")[: asked.top_k]
    return {"results": [{"index": place, "score": float(rows[place])} for place in order.tolist()]}


# ---- joining ----


class Item(NamedTuple):
    """A checked request in a replica: its texts or pairs, and the prompt's name."""

    inputs: list[Any]
    prompt_name: str | None


Computed = list[np.ndarray | BaseException]


class Joiner:
    """Joins requests of many callers: while one batch is computed, the next gathers.

    ``serve.batch`` closes a batch after a fixed wait instead, also while the model is busy.

    Args:
        compute: Gives for some requests their rows, or the error of each that failed.
        most: Texts of a batch; a request with more is a batch of its own.
    """

    def __init__(self, compute: Callable[[list[Item]], Awaitable[Computed]], most: int) -> None:
        self.compute, self.most = compute, most
        self.waiting: list[tuple[Item, asyncio.Future[np.ndarray]]] = []
        self.running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> np.ndarray:
        """The rows of a request, when its batch has been computed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[np.ndarray] = loop.create_future()
        self.waiting.append((item, future))
        if self.running is None:
            self.running = loop.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while batch := self._take():
            items = [item for item, _ in batch]
            (found,) = await asyncio.gather(self.compute(items), return_exceptions=True)
            rows = [found] * len(batch) if isinstance(found, BaseException) else found
            for (_, future), row in zip(batch, rows, strict=True):
                if future.done():  # its caller has gone
                    continue
                if isinstance(row, BaseException):
                    future.set_exception(row)
                else:
                    future.set_result(row)
        self.running = None

    def _take(self) -> list[tuple[Item, asyncio.Future[np.ndarray]]]:
        """The next batch, in the order of arrival."""
        self.waiting = [entry for entry in self.waiting if not entry[1].done()]
        size = count = 0
        for item, _ in self.waiting:
            size += len(item.inputs)
            if count and size > self.most:
                break
            count += 1
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        return batch


def by_prompt(items: Sequence[Item]) -> Iterator[tuple[str | None, list[int]]]:
    """The prompts of some requests, each with the positions of its requests."""
    for name in dict.fromkeys(item.prompt_name for item in items):
        yield name, [place for place, item in enumerate(items) if item.prompt_name == name]


# ---- the deployments ----


class Model:
    """A replica that holds the model.

    Args:
        args: :class:`Options` as a dict.
    """

    def __init__(self, args: dict[str, Any]) -> None:
        import torch

        self.options = Options.model_validate(args)
        torch.set_num_threads(max(1, round(self.options.cpus_per_replica)))
        self.reranks = is_reranker(self.options)
        self.name = "/".join(Path(self.options.model).parts[-2:])  # clients need not know where folders are
        self.model = open_model(self.options, self.reranks)
        self.join = Joiner(self.compute, self.options.joined_texts)
        self.thread = ThreadPoolExecutor(1)  # the event loop takes requests in meanwhile
        self.failed = False  # whether the last request failed
        self.batches = self.texts = 0
        self.count = Counter("st_serve_texts", "Texts, or pairs, computed")
        sizes = [2.0**power for power in range(11)]
        self.sizes = Histogram(
            "st_serve_batch_texts", "Texts of the requests computed together", boundaries=sizes
        )
        times = [0.001 * 2**power for power in range(15)]
        self.seconds = Histogram("st_serve_batch_seconds", "Seconds that they took", boundaries=times)
        self.probe: Any = ("is it", "ready") if self.reranks else "ready"
        self.rows([self.probe], None)  # memory and kernels are there before the first request

    async def answer(self, path: str, inputs: list[Any], prompt_name: str | None) -> np.ndarray | str:
        """Rows for one caller's texts or pairs; or why they are refused, as an exception would be logged."""
        kind = "a reranker" if self.reranks else "an embedder"
        if self.reranks is (path == "/embed"):
            return f"{path}: {self.name} is {kind}; use {'/score or /rank' if self.reranks else '/embed'}"
        if prompt_name is not None and prompt_name not in self.model.prompts:
            known = ", ".join(map(repr, self.model.prompts)) or "none"
            return f"{path}: prompt_name: the model has no prompt {prompt_name!r}; it has {known}"
        return await self.join(Item(inputs, prompt_name))

    async def compute(self, items: list[Item]) -> Computed:
        """Rows of several requests together; if they fail, of each by itself, so that only the guilty one fails."""
        started = time.monotonic()
        (found,) = await asyncio.gather(self._in_thread(items), return_exceptions=True)
        if isinstance(found, BaseException) and len(items) > 1:
            return [row for item in items for row in await self.compute([item])]
        count = sum(len(item.inputs) for item in items)
        if isinstance(found, BaseException):
            self.failed = True
            return [found]
        self.failed = False
        self.batches, self.texts = self.batches + 1, self.texts + count
        self.count.inc(count)
        self.sizes.observe(count)
        self.seconds.observe(time.monotonic() - started)
        return found

    async def _in_thread(self, items: list[Item]) -> Computed:
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._together, items)

    def _together(self, items: list[Item]) -> Computed:
        found: Computed = [np.empty(0)] * len(items)
        for name, places in by_prompt(items):
            rows = self.rows([text for place in places for text in items[place].inputs], name)
            ends = np.cumsum([len(items[place].inputs) for place in places])
            for place, part in zip(places, np.split(rows, ends[:-1]), strict=True):
                found[place] = part
        return found

    def rows(self, inputs: list[Any], prompt_name: str | None) -> np.ndarray:
        """Embeddings (n, d), or scores (n,) or (n, c)."""
        compute = self.model.predict if self.reranks else self.model.encode
        size = self.options.batch_size
        rows: np.ndarray = compute(inputs, prompt_name=prompt_name, batch_size=size, show_progress_bar=False)
        if not np.isfinite(rows).all():
            raise FloatingPointError("the model computed numbers that are not finite")
        return rows

    def about(self) -> dict[str, Any]:
        """What /health says of a replica."""
        kind = "reranker" if self.reranks else "embedder"
        replica = serve.get_replica_context().replica_tag
        known = {"model": self.name, "kind": kind, "replica": replica}
        return known | {"batches": self.batches, "texts": self.texts}

    async def check_health(self) -> None:
        """Serve calls this every ten seconds, and replaces a replica for which it raises.

        After a failure it encodes a text: a GPU in error stays in error, while a request that failed by its own
        fault says nothing about the replica.
        """
        if self.failed:
            await self._in_thread([Item([self.probe], None)])
            self.failed = False


class Ingress:
    """A process that takes requests in.

    Args:
        model: The other deployment.
        args: :class:`Options` as a dict.
    """

    def __init__(self, model: DeploymentHandle, args: dict[str, Any]) -> None:
        self.model, self.options = model, Options.model_validate(args)
        self.repeated = 0
        self.repeats = Counter("st_serve_repeats", "Requests repeated as a replica died")

    async def __call__(self, request: Request) -> Response:
        """The answer, which is JSON whatever happens."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        try:
            method = {"/health": "GET"}.get(path, "POST")
            if path not in PATHS:
                raise Refusal(404, f"there is no {path}; there are {', '.join(PATHS)}")
            if request.method != method:
                raise Refusal(405, f"{path}: expected {method}, found {request.method}")
            return reply(200, await (self.health() if path == "/health" else self.answer(path, request)))
        except Refusal as refusal:
            return reply(refusal.status, {"error": str(refusal)})
        except BackPressureError:
            waiting = f"{self.options.queue} requests wait already; repeat this one later"
            return reply(503, {"error": waiting}, {"Retry-After": "1"})

    async def answer(self, path: str, request: Request) -> dict[str, Any]:
        """The answer of the model.

        Raises:
            Refusal: If the request is bad, or the model fails.
        """
        asked = read(path, await self.body(request), self.options.request_texts)
        rows = await self.ask(path, inputs_of(asked), asked.prompt_name)
        if isinstance(rows, str):
            raise Refusal(400, rows)
        return answer_of(asked, rows)

    async def body(self, request: Request) -> bytes:
        """The body, as far as its length is allowed."""
        found = bytearray()
        async for part in request.stream():
            found += part
            if len(found) > self.options.request_bytes:
                raise Refusal(413, f"a request may have {self.options.request_bytes} bytes; send several")
        return bytes(found)

    async def ask(self, *given: Any) -> Any:
        """Asks a replica, and another one if it dies: computing a text again changes nothing."""
        for _ in range(ATTEMPTS):
            try:
                return await self.model.answer.remote(*given)
            except RayTaskError as error:
                raise Refusal(500, f"the model failed: {error.cause!r}") from error
            except RayActorError as error:
                lost = error
                self.repeated += 1
                self.repeats.inc()
        raise Refusal(500, f"{ATTEMPTS} replicas died while they computed this request") from lost

    async def health(self) -> dict[str, Any]:
        """Whether a replica answers, and which.

        Raises:
            Refusal: If none does within five seconds.
        """
        try:
            about = await asyncio.wait_for(self.model.about.remote(), 5)
        except (RayActorError, asyncio.TimeoutError) as error:
            raise Refusal(503, "no replica of the model answers") from error
        return {"status": "ok", **about, "repeated": self.repeated}


def reply(status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A response with JSON."""
    return Response(to_json(value), status, headers, media_type="application/json")


# ---- the model ----


def is_reranker(options: Options) -> bool:
    """Whether a model is a reranker, as its folder says; names on the Hub are embedders unless ``reranker`` is set."""
    folder = Path(options.model)
    if options.reranker is not None or not folder.is_dir():
        return bool(options.reranker)
    texts = {name: folder / name for name in ("config.json", "config_sentence_transformers.json")}
    config, settings = (json.loads(path.read_text()) if path.exists() else {} for path in texts.values())
    if (folder / "modules.json").exists() or "model_type" in settings:
        return settings.get("model_type") == "CrossEncoder"
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def open_model(options: Options, reranks: bool) -> Any:
    """The model, on a GPU if its replica has one."""
    from ray_st import CrossEncoder, SentenceTransformer

    given: dict[str, Any] = {"device": "cuda" if options.gpus_per_replica else "cpu"}
    if options.backend != "torch":
        given["backend"] = options.backend
        given["model_kwargs"] = {"file_name": options.file_name} if options.file_name else {}
    return (CrossEncoder if reranks else SentenceTransformer)(options.model, **given)


def deployments(options: Options) -> tuple[serve.Deployment, serve.Deployment]:
    """The deployments of the model and of the ingress."""
    model = serve.deployment(
        Model,
        num_replicas=options.replicas,
        ray_actor_options={"num_cpus": options.cpus_per_replica, "num_gpus": options.gpus_per_replica},
        max_ongoing_requests=options.ongoing,  # Serve's default of 5 would be the most that are joined
        max_queued_requests=options.queue,
    )
    ingress = serve.deployment(
        Ingress,
        num_replicas=options.ingresses,
        ray_actor_options={"num_cpus": options.cpus_per_ingress},
        # All that replicas and queue take, and some to be told that there is no room.
        max_ongoing_requests=options.ongoing * options.replicas + options.queue + 100,
    )
    return model, ingress


def build(args: dict[str, Any]) -> serve.Application:
    """The application, for ``import_path`` of a Serve configuration and for ``serve.run``.

    Args:
        args: See :class:`Options`; texts are converted, as ``serve run`` passes only these.

    Raises:
        pydantic.ValidationError: If a key is unknown, ``model`` is missing, or a value is out of range.
    """
    options = Options.model_validate(args)
    model, ingress = deployments(options)
    return ingress.bind(model.bind(options.model_dump()), options.model_dump())


# ---- the script ----


def main(given: Sequence[str] | None = None) -> None:
    """Serves until it is interrupted.

    Args:
        given: The arguments; by default those of the process.

    Raises:
        SystemExit: If an option is invalid, or the port is taken.
    """
    options, host, port = arguments(given)
    check_free(host, port)
    from ray_st.runtime.cluster.connection import connected

    with connected():
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # Ray has its own, and a shell's background jobs ignore one
            signal.signal(number, signal.default_int_handler)
        try:
            serve.start(http_options={"host": host, "port": port, "request_timeout_s": 60})
            serve.run(build(options.model_dump()))
            print(f"{options.model} is served at http://{host}:{port}; Ctrl-C ends it", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print("ending", flush=True)
        finally:
            serve.shutdown()


def check_free(host: str, port: int) -> None:
    """Serve's proxies share a port with those of another Ray, which would then get a part of the requests.

    Raises:
        SystemExit: If something listens there.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SystemExit(
                f"{host}:{port} cannot be used: {error.strerror}; choose another --port"
            ) from error


def arguments(given: Sequence[str] | None = None) -> tuple[Options, str, int]:
    """The command line: options, host and port."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=Options.model_fields["model"].description)
    parser.add_argument("--offline", action="store_true", help="serve all-MiniLM-L6-v2 from its package")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; nobody is asked for a password"
    )
    parser.add_argument("--port", type=int, default=8000)
    for name, field in Options.model_fields.items():
        if name != "model":
            option = f"--{name.replace('_', '-')}"
            switch: dict[str, Any] = {"action": "store_true", "default": None} if name == "reranker" else {}
            shown = "" if field.default is None else f" (default: {field.default})"
            parser.add_argument(option, help=f"{field.description}{shown}", **switch)
    found = vars(parser.parse_args(given))
    host, port = found.pop("host"), found.pop("port")
    if found.pop("offline"):
        from offline import packaged_model

        found["model"] = str(packaged_model())
    if found["model"] is None:
        parser.error("MODEL is missing: a folder, a name on the Hub, or --offline")
    try:
        return (
            Options.model_validate({name: value for name, value in found.items() if value is not None}),
            host,
            port,
        )
    except ValidationError as error:
        first = error.errors()[0]
        parser.error(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}; found {first['input']!r}")


if __name__ == "__main__":
    main()
