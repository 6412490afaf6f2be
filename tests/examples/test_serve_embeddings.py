"""The served model: its parts without Ray, and the whole of it on the loopback interface."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

serve = pytest.importorskip("ray.serve")

from ray import cloudpickle  # noqa: E402
from ray.exceptions import RayActorError, RayTaskError  # noqa: E402
from ray.serve.exceptions import BackPressureError  # noqa: E402
from ray.serve.schema import ServeDeploySchema  # noqa: E402
from starlette.requests import Request  # noqa: E402

import serve_embeddings as served  # noqa: E402
from ray_st import CrossEncoder, SentenceTransformer  # noqa: E402
from ray_st.cli.clusters.serving import ServeSpec  # noqa: E402
from serve_embeddings import Embed, Ingress, Item, Joiner, Model, Options, Rank, Refusal, Score, read  # noqa: E402

TEXTS = ["a man is eating", "the weather is good today", "one", "she plays the guitar in a park"]
CONFIG = Path(__file__).parents[2] / "clusters" / "kuberay" / "services" / "serve" / "rayservice.yaml"


# ---- requests ----


def test_bodies_are_read() -> None:
    assert read("/embed", b'{"texts": ["a", ""], "prompt_name": "query"}', 2) == Embed(
        texts=["a", ""], prompt_name="query"
    )
    assert read("/score", b'{"pairs": [["a", "b"]]}', 1) == Score(pairs=[("a", "b")])
    assert read("/rank", b'{"query": "a", "documents": ["b"], "top_k": 3}', 1) == Rank(
        query="a", documents=["b"], top_k=3
    )


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/embed", "", "/embed: body: Invalid JSON"),
        ("/embed", "[" * 100_000, "/embed: body: Invalid JSON: recursion limit exceeded"),
        ("/embed", '"text"', "/embed: body: Input should be an object"),
        ("/embed", "{}", "/embed: texts: Field required"),
        ("/embed", '{"texts": "a"}', "/embed: texts: Input should be a valid array"),
        ("/embed", '{"texts": []}', "/embed: texts: List should have at least 1 item"),
        ("/embed", '{"texts": ["a", 1]}', "/embed: texts.1: Input should be a valid string"),
        ("/embed", '{"texts": ["a", null]}', "/embed: texts.1: Input should be a valid string"),
        ("/embed", '{"texts": ["\\ud800"]}', "/embed: body: Invalid JSON"),
        ("/embed", '{"texts": ["a"], "prompt": "p"}', "/embed: prompt: Extra inputs are not permitted"),
        ("/embed", '{"texts": ["a", "b", "c", "d"]}', "/embed: expected at most 3 texts or pairs, found 4"),
        ("/score", '{"pairs": [["a"]]}', "/score: pairs.0.1: Field required"),
        ("/score", '{"pairs": [["a", "b", "c"]]}', "/score: pairs.0: Tuple should have at most 2 items"),
        ("/rank", '{"query": "a", "documents": []}', "/rank: documents: List should have at least 1 item"),
        (
            "/rank",
            '{"query": "a", "documents": ["b"], "top_k": 0}',
            "/rank: top_k: Input should be greater than or",
        ),
        (
            "/rank",
            '{"query": "a", "documents": ["b", "b", "b", "b"]}',
            "expected at most 3 texts or pairs, found 4",
        ),
    ],
)
def test_bad_bodies_are_refused_with_their_fault(path: str, body: str, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(path, body.encode(), 3)
    assert caught.value.status == 400
    assert message in str(caught.value)


def test_answers() -> None:
    rows = np.array([[0.5, 1.0], [2.0, -1.0]], np.float32)
    assert served.answer_of(Embed(texts=["a", "b"]), rows) == {"embeddings": [[0.5, 1.0], [2.0, -1.0]]}
    assert served.answer_of(Score(pairs=[("a", "b")] * 2), rows) == {"scores": [[0.5, 1.0], [2.0, -1.0]]}
    rank = Rank(query="q", documents=["a", "b", "c"], top_k=2)
    scores = np.array([0.5, 1.0, 0.5], np.float32)
    ranked = [{"index": 1, "score": 1.0}, {"index": 0, "score": 0.5}]
    assert served.answer_of(rank, scores) == {"results": ranked}
    with pytest.raises(Refusal, match="gives 2 scores for a pair; use /score"):
        served.answer_of(rank, rows)


# ---- joining ----


class Slow:
    """Computes a text's length, when it is let; notes what it was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[list[str]]] = []
        self.go = asyncio.Event()

    async def __call__(self, items: list[Item]) -> list[Any]:
        self.batches.append([item.inputs for item in items])
        await self.go.wait()
        return [
            ValueError(item.inputs[0])
            if item.inputs[0] == "bad"
            else np.array([len(text) for text in item.inputs])
            for item in items
        ]


async def join(
    most: int, *requests: list[str], cancel: int | None = None
) -> tuple[list[Any], list[list[list[str]]]]:
    """Sends the first request, and the others while it is computed; answers, and what was computed together."""
    slow = Slow()
    joiner = Joiner(slow, most)
    tasks = [asyncio.create_task(joiner(Item(texts, None))) for texts in requests[:1]]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(joiner(Item(texts, None))) for texts in requests[1:]]
    await asyncio.sleep(0)
    if cancel is not None:
        tasks[cancel].cancel()
    slow.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [row.tolist() if isinstance(row, np.ndarray) else row for row in found], slow.batches


def test_what_arrives_while_a_batch_is_computed_is_the_next_one() -> None:
    found, batches = asyncio.run(join(9, ["a"], ["bb", "ccc"], ["dddd"]))
    assert found == [[1], [2, 3], [4]]
    assert batches == [[["a"]], [["bb", "ccc"], ["dddd"]]]


def test_a_batch_has_a_limit_and_keeps_the_order() -> None:
    found, batches = asyncio.run(join(2, ["a"], ["b"], ["cc", "cc", "cc"], ["d"], ["e"]))
    assert found == [[1], [1], [2, 2, 2], [1], [1]]
    assert batches == [[["a"]], [["b"]], [["cc", "cc", "cc"]], [["d"], ["e"]]]


def test_a_failure_reaches_its_own_caller() -> None:
    found, batches = asyncio.run(join(9, ["a"], ["bb"], ["bad"], ["c"]))
    assert [str(row) for row in found] == ["[1]", "[2]", "bad", "[1]"]
    assert len(batches) == 2


def test_who_has_gone_is_not_computed() -> None:
    found, batches = asyncio.run(join(9, ["a"], ["bb"], ["ccc"], cancel=1))
    assert isinstance(found[1], asyncio.CancelledError)
    assert found[2] == [3]
    assert batches == [[["a"]], [["ccc"]]]


def test_a_joiner_goes_on_after_a_failure_of_all() -> None:
    async def fails(items: list[Item]) -> list[Any]:
        raise ValueError("no memory")

    async def twice() -> list[Any]:
        joiner = Joiner(fails, 9)
        return [
            (
                await asyncio.gather(
                    joiner(Item(["a"], None)), joiner(Item(["b"], None)), return_exceptions=True
                )
            )
            for _ in range(2)
        ]

    assert [[str(row) for row in found] for found in asyncio.run(twice())] == [["no memory"] * 2] * 2


# ---- the model's replica, in this process ----


@pytest.fixture
def prompted(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny embedder with a prompt."""
    model = SentenceTransformer(tiny_folder, device="cpu", prompts={"query": "find "})
    model.save(str(tmp_path / "prompted"))
    return tmp_path / "prompted"


def test_requests_with_several_prompts_are_computed_together(prompted: Path) -> None:
    async def ask() -> list[Any]:
        return await model.compute([Item(TEXTS[:2], None), Item(TEXTS[2:3], "query"), Item(TEXTS[1:], None)])

    model, plain = Model({"model": str(prompted)}), SentenceTransformer(prompted, device="cpu")
    found = asyncio.run(ask())
    for rows, texts, name in zip(
        found, (TEXTS[:2], TEXTS[2:3], TEXTS[1:]), (None, "query", None), strict=True
    ):
        np.testing.assert_allclose(rows, plain.encode(texts, prompt_name=name), atol=1e-6)
    assert (model.batches, model.texts) == (1, 6)


def test_a_text_that_breaks_the_model_fails_alone(tiny_folder: Path) -> None:
    model = Model({"model": str(tiny_folder)})
    encode = model.model.encode

    def breaks(texts: list[str], **options: Any) -> Any:
        if "break" in texts:
            raise RuntimeError("broken")
        return encode(texts, **options) * (np.nan if "nan" in texts else 1)

    async def ask(*texts: str) -> list[Any]:
        found = await model.compute([Item([text], None) for text in texts])
        await model.check_health()
        return [row if isinstance(row, Exception) else row.shape for row in found]

    model.model.encode = breaks
    found = asyncio.run(ask("a", "break", "b", "nan"))
    assert found[0] == found[2] == (1, 32)
    assert str(found[1]) == "broken"
    assert isinstance(found[3], FloatingPointError)
    model.probe = "break"  # as if nothing could be computed any more
    assert asyncio.run(ask("a")) == [(1, 32)]
    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(ask("break"))


def test_what_a_replica_refuses(prompted: Path, tiny_reranker: Path) -> None:
    async def refusal(model: Model, path: str, inputs: list[Any], name: str | None = None) -> Any:
        return await model.answer(path, inputs, name)

    embedder, reranker = Model({"model": str(prompted)}), Model({"model": str(tiny_reranker)})
    said = asyncio.run(refusal(embedder, "/embed", ["a"], "passage"))
    assert said == "/embed: prompt_name: the model has no prompt 'passage'; it has 'query', 'document'"
    assert "is an embedder; use /embed" in asyncio.run(refusal(embedder, "/rank", [("a", "b")]))
    assert "is a reranker; use /score or /rank" in asyncio.run(refusal(reranker, "/embed", ["a"]))
    pairs = [("a man", text) for text in TEXTS]
    found = asyncio.run(refusal(reranker, "/score", pairs))
    np.testing.assert_allclose(found, CrossEncoder(tiny_reranker, device="cpu").predict(pairs), atol=1e-6)


def test_kinds_of_folders(tiny_folder: Path, tiny_encoder: Path, tiny_reranker: Path, tmp_path: Path) -> None:
    CrossEncoder(tiny_reranker, device="cpu").save(str(tmp_path / "saved"))
    found = {
        folder: served.is_reranker(Options(model=str(folder)))
        for folder in (tiny_folder, tiny_encoder, tiny_reranker, tmp_path / "saved", Path("a/name"))
    }
    assert list(found.values()) == [False, False, True, True, False]
    assert served.is_reranker(Options(model="a/name", reranker=True))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"device": "cpu"}),
        ({"gpus_per_replica": 0.5}, {"device": "cuda"}),
        ({"backend": "onnx"}, {"device": "cpu", "backend": "onnx", "model_kwargs": {}}),
        (
            {"backend": "openvino", "file_name": "m.xml"},
            {"device": "cpu", "backend": "openvino", "model_kwargs": {"file_name": "m.xml"}},
        ),
    ],
)
def test_backends(options: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_st.SentenceTransformer", lambda name, **given: (name, given), raising=False)
    assert served.open_model(Options(model="m", **options), False) == ("m", expected)


# ---- the ingress, in this process ----


class Handle:
    """Stands for the handle of the model: gives or raises what it is told, in turn."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.answer = self.about = self

    async def remote(self, *given: Any) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def ask(
    handle: Handle, path: str, body: bytes = b'{"texts": ["a"]}', method: str = "POST", **options: Any
) -> Any:
    """The response of an ingress: its status, headers and JSON."""
    sent = iter(
        [
            {"type": "http.request", "body": body[:5], "more_body": True},
            {"type": "http.request", "body": body[5:]},
        ]
    )

    async def receive() -> Any:
        return next(sent)

    scope = {"type": "http", "path": f"/app{path}", "root_path": "/app", "method": method, "headers": []}
    ingress: Any = Ingress(handle, {"model": "m", **options})  # type: ignore[arg-type]
    response = asyncio.run(ingress(Request(scope, receive)))
    return response.status_code, response.headers, json.loads(response.body)


ROWS = np.array([[1.0, 2.0]])


def test_a_request_is_repeated_when_its_replica_dies() -> None:
    status, _, found = ask(Handle(RayActorError(), RayActorError(), ROWS), "/embed")
    assert (status, found) == (200, {"embeddings": [[1.0, 2.0]]})
    status, _, found = ask(Handle(*[RayActorError()] * 3), "/embed")
    assert (status, found) == (500, {"error": "3 replicas died while they computed this request"})


def test_a_failure_of_the_model_is_told_and_not_repeated() -> None:
    failure = RayTaskError("answer", "its traceback", RuntimeError("no memory")).as_instanceof_cause()
    status, _, found = ask(Handle(failure), "/embed")
    assert (status, found) == (500, {"error": "the model failed: RuntimeError('no memory')"})


def test_a_full_queue_says_when_to_come_back() -> None:
    status, headers, found = ask(Handle(BackPressureError(8, 8)), "/embed", queue=8)
    assert (status, headers["retry-after"]) == (503, "1")
    assert found == {"error": "8 requests wait already; repeat this one later"}


@pytest.mark.parametrize(
    ("path", "method", "body", "status", "message"),
    [
        ("/", "GET", b"", 404, "there is no /; there are /embed, /score, /rank, /health"),
        ("/embed", "GET", b"", 405, "/embed: expected POST, found GET"),
        ("/health", "POST", b"", 405, "/health: expected GET, found POST"),
        ("/embed", "POST", b'{"texts": []}', 400, "/embed: texts: List should have at least 1 item"),
        ("/embed", "POST", b'{"texts": ["%s"]}' % (b"a" * 100), 413, "a request may have 100 bytes"),
    ],
)
def test_bad_requests_do_not_reach_the_model(
    path: str, method: str, body: bytes, status: int, message: str
) -> None:
    found = ask(Handle(), path, body, method, request_bytes=100)
    assert found[0] == status
    assert message in found[2]["error"]


def test_what_the_replica_refuses_is_a_bad_request() -> None:
    status, _, found = ask(Handle("no such prompt"), "/embed")
    assert (status, found) == (400, {"error": "no such prompt"})


def test_health() -> None:
    status, _, found = ask(Handle({"model": "m", "replica": "r"}), "/health", method="GET")
    assert (status, found) == (200, {"status": "ok", "model": "m", "replica": "r", "repeated": 0})
    status, _, found = ask(Handle(RayActorError()), "/health", method="GET")
    assert (status, found) == (503, {"error": "no replica of the model answers"})


# ---- options ----


def test_options_of_deployments() -> None:
    given = {
        "model": "m",
        "replicas": "4",
        "gpus_per_replica": "0.25",
        "cpus_per_replica": 0.5,
        "ongoing": 8,
        "queue": 16,
    }
    model, ingress = served.deployments(Options.model_validate(given))  # `serve run` passes texts
    assert (model.num_replicas, model.max_ongoing_requests, model.max_queued_requests) == (4, 8, 16)
    assert model.ray_actor_options == {"num_cpus": 0.5, "num_gpus": 0.25}
    assert (ingress.num_replicas, ingress.max_ongoing_requests) == (1, 4 * 8 + 16 + 100)
    assert ingress.ray_actor_options == {"num_cpus": 0}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "model\n  Field required"),
        ({"model": "m", "replica": 2}, "replica\n  Extra inputs are not permitted"),
        ({"model": "m", "replicas": 0}, "replicas\n  Input should be greater than or equal to 1"),
        ({"model": "m", "backend": "tf"}, "backend\n  String should match pattern"),
    ],
)
def test_a_builder_refuses_what_it_does_not_know(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        served.build(args)


def test_the_command_line(minilm_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, host, port = served.arguments(
        ["m", "--replicas", "2", "--gpus-per-replica", "0.25", "--port", "9"]
    )
    assert (options, host, port) == (Options(model="m", replicas=2, gpus_per_replica=0.25), "127.0.0.1", 9)
    options, *_ = served.arguments(["--offline", "--backend", "onnx", "--file-name", "m.onnx", "--reranker"])
    assert options == Options(model=str(minilm_folder), backend="onnx", file_name="m.onnx", reranker=True)
    for given, message in (
        ([], "MODEL is missing"),
        (["m", "--replicas", "none"], "--replicas: Input should be a valid"),
    ):
        with pytest.raises(SystemExit):
            served.arguments(given)
        assert message in capsys.readouterr().err


def test_a_port_is_not_shared() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Serve's proxies do
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            SystemExit, match=f"127.0.0.1:{port} cannot be used: Address already in use; choose"
        ):
            served.main(["m", "--port", str(port)])
    served.check_free("127.0.0.1", port)


def test_the_configuration_for_kubernetes_is_one_of_serve_and_of_the_builder() -> None:
    config = ServeDeploySchema.model_validate(
        yaml.safe_load(yaml.safe_load(CONFIG.read_text())["spec"]["serveConfigV2"])
    )
    (application,) = config.applications
    assert application.import_path == f"{served.__name__}:{served.build.__name__}"
    assert Options.model_validate(application.args).cpus_per_ingress > 0
    assert {field.name for field in fields(ServeSpec)} <= set(Options.model_fields)


# ---- the whole ----


@pytest.fixture
def address(cluster: None, prompted: Path) -> Iterator[str]:
    """The address of the tiny embedder, served by two replicas."""
    cloudpickle.register_pickle_by_value(served)  # workers do not have the examples on their path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(served.build({"model": str(prompted), "replicas": 2, "cpus_per_replica": 0.5}))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        cloudpickle.unregister_pickle_by_value(served)


def send(address: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data), timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.ray
def test_many_callers_at_once(address: str, prompted: Path) -> None:
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS]
    bodies = [
        {"texts": texts[at : at + 2], "prompt_name": "query" if at % 4 else None} for at in range(0, 40, 2)
    ]
    bodies[7] = {"texts": ["a", 7]}
    bodies[11] = {"texts": ["a"], "prompt_name": "passage"}
    with ThreadPoolExecutor(len(bodies)) as callers:
        found = list(callers.map(lambda body: send(f"{address}/embed", body), bodies))
    model = SentenceTransformer(prompted, device="cpu")
    for number, (body, (status, answer)) in enumerate(zip(bodies, found, strict=True)):
        if number in (7, 11):
            assert status == 400
            assert ("texts.1" if number == 7 else "no prompt 'passage'") in answer["error"]
        else:
            assert status == 200
            expected = model.encode(body["texts"], prompt_name=body["prompt_name"])
            np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-6)
    status, about = send(f"{address}/health")
    assert status == 200
    assert (about["status"], about["model"], about["kind"]) == (
        "ok",
        f"{prompted.parent.name}/prompted",
        "embedder",
    )
