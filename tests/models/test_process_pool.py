from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ray_st.models.process_pool import chunk_rows

TEXTS = ["a man", "the weather is good " * 9, "pasta", "", "query: is it (sunny)?", "a b c", "pasta"] * 9


class PoolHere:
    """A pool of this process that answers in the wrong order, and remembers what it was asked."""

    size = 2

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model)
        self.chunks: list[int] = []
        self.stopped = False

    def encode(self, chunks: Sequence[list[str]], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        self.chunks = [len(chunk) for chunk in chunks]
        for number in reversed(range(len(chunks))):
            yield number, self.model.encode(chunks[number], **options)

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def pool(tiny_model: Any) -> PoolHere:
    tiny_model.prompts["query"] = "query: "
    return PoolHere(tiny_model)


@pytest.mark.parametrize("window", [3, 128], ids=["windows", "a window"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 4},
        {"batch_size": 4, "chunk_size": 99},
        {"batch_size": 4, "chunk_size": 5, "normalize_embeddings": True},
        {"truncate_dim": 8, "prompt_name": "query"},
        {"prompt": "the man "},
        {"precision": "int8", "batch_size": 3},
        {"precision": "ubinary"},
    ],
    ids=str,
)
def test_a_pool_gives_what_one_process_gives(
    options: dict[str, Any], window: int, pool: PoolHere, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_st.models.text_encoding.WINDOW_BATCHES", window)
    alone = {name: value for name, value in options.items() if name != "chunk_size"}
    found = tiny_model.encode(TEXTS, pool=pool, **options)
    expected = tiny_model.encode(TEXTS, **alone)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_the_forms_of_results(pool: PoolHere, tiny_model: Any) -> None:
    expected = tiny_model.encode(TEXTS)
    tensor = tiny_model.encode(TEXTS, pool=pool, convert_to_tensor=True)
    listed = tiny_model.encode(TEXTS, pool=pool, convert_to_numpy=False)
    assert torch.equal(tensor, torch.from_numpy(expected))
    assert isinstance(listed, list)
    assert torch.equal(torch.stack(listed), tensor)
    np.testing.assert_array_equal(tiny_model.encode(TEXTS[1], pool=pool), tiny_model.encode(TEXTS[1]))
    assert tiny_model.encode([], pool=pool).shape == (0, 32)


@pytest.mark.parametrize("output_value", ["token_embeddings", None])
def test_other_outputs(output_value: str | None, pool: PoolHere, tiny_model: Any) -> None:
    found = tiny_model.encode(TEXTS, pool=pool, output_value=output_value)
    expected = tiny_model.encode(TEXTS, output_value=output_value)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one, other = (
            (one, other) if output_value else (one["sentence_embedding"], other["sentence_embedding"])
        )
        assert torch.equal(one, other)


def test_the_older_method_and_roles(pool: PoolHere, tiny_model: Any) -> None:
    found = tiny_model.encode_multi_process(TEXTS, pool, "query", None, 4, 8)
    assert pool.chunks == [8, 8, 8, 8, 8, 8, 8, 7]
    np.testing.assert_array_equal(found, tiny_model.encode_query(TEXTS, batch_size=4))
    np.testing.assert_array_equal(found, tiny_model.encode_query(TEXTS, batch_size=4, pool=pool))
    tiny_model.stop_multi_process_pool(pool)
    assert pool.stopped


def test_a_list_of_devices_is_a_pool_for_one_call(
    pool: PoolHere, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("ray_st.runtime.encode.encode_pool.EncodePool", lambda *a: asked.append(a) or pool)
    np.testing.assert_array_equal(tiny_model.encode(TEXTS, device=["cpu", "cpu"]), tiny_model.encode(TEXTS))
    assert asked == [(tiny_model, ["cpu", "cpu"])]
    assert pool.stopped


def test_chunks_are_whole_batches() -> None:
    assert chunk_rows(1000, 2, None, 32) == 64
    assert chunk_rows(10, 4, None, 32) == 32
    assert chunk_rows(10**7, 2, None, 32) == 5024
    assert chunk_rows(1000, 2, 33, 32) == 64


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a", 1], {}, "entry 1 is int"),
        (["a"], {"chunk_size": 0}, "chunk_size must be at least 1; got 0"),
        (["a"], {"batch_size": 0}, "batch_size must be at least 1"),
        (["a"], {"prompt_name": "nothing"}, "no prompt named 'nothing'"),
    ],
)
def test_what_is_refused(
    texts: list[Any], options: dict[str, Any], message: str, pool: PoolHere, tiny_model: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model.encode(texts, pool=pool, **options)


def test_quantised_as_the_peer_does(pool: PoolHere, tiny_model: Any, peer: Any) -> None:
    expected = peer.util.quantize_embeddings(tiny_model.encode(TEXTS), "int8")
    found = tiny_model.encode(TEXTS, pool=pool, precision="int8")
    np.testing.assert_array_equal(found, expected)
