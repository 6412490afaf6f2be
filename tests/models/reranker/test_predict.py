"""Scoring many pairs: batches, teams, pools, and inputs that are no pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ray_st.models.reranker.cross_encoder import CrossEncoder
from ray_st.models.reranker.pair_inputs import read_pairs
from ray_st.models.reranker.pair_scoring import finished
from reranker_folders import save_classifier, text_pairs
from simulated_team import together

PAIRS = text_pairs(61)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("bert") / "plain", "bert")


@pytest.fixture
def model(folder: Path) -> CrossEncoder:
    return CrossEncoder(folder, device="cpu", prompts={"query": "find : "})


class PoolHere:
    """A pool whose only process is this one."""

    size = 2

    def __init__(self, model: CrossEncoder) -> None:
        self.model, self.chunks, self.stopped = model, [], False

    def predict(self, chunks: list[Any], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        self.chunks = [len(chunk) for chunk in chunks]
        for number in reversed(range(len(chunks))):
            yield number, self.model.predict(chunks[number], **options)

    def stop(self) -> None:
        self.stopped = True


def test_batches_are_sorted_by_tokens(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    forward = CrossEncoder.forward

    def spied(self: CrossEncoder, features: Any) -> Any:
        shapes.append(tuple(features["input_ids"].shape))
        return forward(self, features)

    monkeypatch.setattr(CrossEncoder, "forward", spied)
    model.predict(PAIRS, batch_size=8)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)
    assert len(shapes) == 8


def test_a_text_is_tokenized_once(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_st.models.tokens import TokenEncoder

    seen: list[str] = []
    encode = TokenEncoder.__call__

    def spied(self: TokenEncoder, texts: Any) -> Any:
        seen.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(TokenEncoder, "__call__", spied)
    model.predict([("the weather", f"document {i % 4}") for i in range(20)])
    assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize("window", [2, 128])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_team_gets_bitwise_the_same_scores(
    size: int, window: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_st.models.text_encoding.WINDOW_BATCHES", window)
    expected = CrossEncoder(folder, device="cpu").predict(PAIRS, batch_size=5)
    # Not opened in the threads: several at once, transformers' from_pretrained leaves weights untied for good.
    models = [CrossEncoder(folder, device="cpu") for _ in range(size)]

    def score(team: Any) -> np.ndarray:
        model = models[team.rank]
        model.team = team
        return model.predict(PAIRS, batch_size=5)

    for found in together(size, score):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("window", [2, 128])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_size": 4, "chunk_size": 5}, {"prompt_name": "query"}, {"activation_fn": nn.Tanh()}],
    ids=str,
)
def test_a_pool_gives_what_one_process_gives(
    options: dict[str, Any], window: int, model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_st.models.text_encoding.WINDOW_BATCHES", window)
    alone = {name: value for name, value in options.items() if name != "chunk_size"}
    found = model.predict(PAIRS, pool=PoolHere(model), **options)
    np.testing.assert_array_equal(found, model.predict(PAIRS, **alone))


def test_a_list_of_devices_is_a_pool_for_one_call(
    model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, asked = PoolHere(model), []
    monkeypatch.setattr("ray_st.runtime.encode.encode_pool.EncodePool", lambda *a: asked.append(a) or pool)
    found = model.predict(PAIRS, device=["cpu", "cpu"], chunk_size=16)
    np.testing.assert_array_equal(found, model.predict(PAIRS))
    assert asked == [(model, ["cpu", "cpu"])]
    assert (pool.stopped, pool.chunks) == (True, [32, 29])
    ranked = model.rank("the weather", ["good", "bad"], pool=pool)
    assert {entry["corpus_id"] for entry in ranked} == {0, 1}


@pytest.mark.ray
@pytest.mark.slow
def test_a_pool_on_the_cluster(cluster: None, model: CrossEncoder) -> None:
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        np.testing.assert_array_equal(model.predict(PAIRS, pool=pool), model.predict(PAIRS))
    finally:
        model.stop_multi_process_pool(pool)


def test_training_mode_is_restored(model: CrossEncoder) -> None:
    model.train()
    model.predict(PAIRS[:3])
    assert model.training
    assert model.model.training


def test_rows_of_a_data_set(model: CrossEncoder) -> None:
    rows = [{"query": first, "passage": second} for first, second in PAIRS[:5]]
    np.testing.assert_array_equal(model.predict(rows), model.predict(PAIRS[:5]))
    assert model.predict(rows[0]) == model.predict(PAIRS[0])
    assert model.predict([{"text": PAIRS[0][0]}, {"text": PAIRS[0][1]}]) == model.predict(PAIRS[0])
    assert model.predict(iter(PAIRS[:3])).shape == (3,)
    assert model.predict(inputs=PAIRS[:3]).shape == (3,)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("one text", "str: 'one text'"),
        (["one text"], "list: "),
        (("a", "b", "c"), "tuple of 3 values"),
        ([("a", "b"), ("a",)], "entry 1 is tuple: "),
        ([("a", "b"), ("a", 3)], "entry 1 is tuple of 2 values"),
        ([("a", "b"), None], "entry 1 is NoneType: None"),
        (7, "Pairs of texts are expected; got int: 7"),
        ([("a", "b"), ("a", "\ud800")], "Texts must be Unicode; in entry 1"),
    ],
    ids=str,
)
def test_what_is_no_pair(given: Any, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        read_pairs(given)


def test_errors_of_predict(model: CrossEncoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        model.predict(PAIRS, batch_size=0)
    with pytest.raises(ValueError, match="no prompt named 'x'"):
        model.predict(PAIRS, prompt_name="x")
    with pytest.raises(ValueError, match="predict needs sentences"):
        model.predict()
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        model.predict(PAIRS, pool=PoolHere(model), chunk_size=0)
    three = CrossEncoder(save_classifier(tmp_path, "bert", 3), device="cpu")
    with pytest.raises(ValueError, match="rank needs a model with one label; this one has 3"):
        three.rank("the", ["a"])


def test_prompts_go_before_the_first_text(model: CrossEncoder) -> None:
    prompted = [(f"find : {first}", second) for first, second in PAIRS]
    np.testing.assert_array_equal(model.predict(PAIRS, prompt_name="query"), model.predict(prompted))
    assert torch.equal(
        model.preprocess(PAIRS, prompt="find : ")["input_ids"], model.tokenize(prompted)["input_ids"]
    )
    model.default_prompt_name = "query"
    np.testing.assert_array_equal(model.predict(PAIRS), model.predict(prompted, prompt=""))


def test_scores_of_16_bits_are_widened() -> None:
    logits = torch.tensor([[8.0], [8.0625]], dtype=torch.bfloat16)
    scores = finished(logits, nn.Sigmoid(), apply_softmax=True)
    assert (scores.dtype, scores.shape) == (torch.float32, (2,))
    assert scores[0] < scores[1]
    three = finished(torch.randn(4, 3), nn.Identity(), apply_softmax=True)
    torch.testing.assert_close(three.sum(1), torch.ones(4))
