from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from pretended_device import pretended_device
from ray_st.losses.embed import embed_columns, plan_chunks
from ray_st.losses.gradient_cache import CachedRun
from ray_st.testing.tiny_encoder import TinyEncoder
from ray_st.util.host_facts import HOST_KEYS, with_host_facts, without_host_facts
from ray_st.util.tensors import batch_to_device

WAYS = [(16_384, 0), (16_384, 80), (24, 0), (1, 0), (10**9, 10**9)]


def plain(model: Any, features: list[dict[str, Any]]) -> list[torch.Tensor]:
    return [model(column)["sentence_embedding"] for column in features]


def compare(model: Any, features: list[dict[str, Any]], gradient_of: Any, **options: Any) -> None:
    ours, theirs = embed_columns(model, features, **options), plain(model, features)
    weights = [torch.randn(column.shape, dtype=column.dtype) for column in theirs]
    sums = [sum((c * w).sum() for c, w in zip(side, weights, strict=True)) for side in (ours, theirs)]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient_of(sums[0], model), gradient_of(sums[1], model), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("token_budget", "call_tokens"), WAYS)
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("types", [False, True])
def test_equals_one_call_a_column(
    encoder, make_features, gradient_of, token_budget, call_tokens, left, types
) -> None:
    features = make_features(3, 7, left=left, types=types)
    compare(encoder, features, gradient_of, token_budget=token_budget, call_tokens=call_tokens)


@pytest.mark.parametrize("left", [False, True])
def test_prompt_lengths_follow_their_rows(encoder, make_features, gradient_of, left) -> None:
    features = make_features(3, 5, left=left)
    features[0]["prompt_length"] = 2
    features[1]["prompt_length"] = torch.tensor([1, 2, 0, 1, 2])
    compare(encoder, features, gradient_of, token_budget=20, call_tokens=0)


@pytest.mark.parametrize("sides", [[False, False], [True, True], [False, True]])
def test_calls_get_what_the_host_knows_of_their_rows(encoder, make_features, sides) -> None:
    features = [make_features(2, 7, seed=seed, left=left)[seed] for seed, left in enumerate(sides)]
    expected, seen = embed_columns(encoder, features, call_tokens=0), list[dict[str, Any]]()
    encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for mine, other in zip(
        embed_columns(encoder, list(map(with_host_facts, features)), call_tokens=0), expected, strict=True
    ):
        assert torch.equal(mine, other)
    for chunk in seen:
        if sides[0] != sides[1]:
            assert not set(chunk) & set(HOST_KEYS)
            continue
        assert torch.equal(chunk["token_lengths"], chunk["attention_mask"].sum(1))
        assert chunk["padding_side"] == ("left" if sides[0] else "right")


def test_planning_does_not_wait_for_the_device(make_features) -> None:
    features = [with_host_facts(column) | {"prompt_length": 2} for column in make_features(3, 7)]
    model = TinyEncoder()
    model.forward = lambda chunk: {"sentence_embedding": chunk["input_ids"][:, :1].double()}  # type: ignore
    expected = embed_columns(model, features)
    with pretended_device() as syncs:
        moved = [batch_to_device(dict(column), "cuda") for column in features]
        found = embed_columns(model, moved, call_tokens=0)
        assert not syncs.take()
        # Features of users' own, without what the host knows: what was copied from it is known, too.
        without = embed_columns(model, list(map(without_host_facts, moved)), call_tokens=0)
        assert not syncs.take()
        for mine, other, third in zip(found, without, expected, strict=True):
            assert torch.equal(mine.cpu(), third)
            assert torch.equal(other.cpu(), third)


def test_equals_a_real_encoder(make_features, gradient_of) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    bert = BertModel(config, add_pooling_layer=False).double()

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            tokens = bert(**features).last_hidden_state
            mask = features["attention_mask"][..., None]
            return {"sentence_embedding": (tokens * mask).sum(1) / mask.sum(1)}

    compare(Encoder(), make_features(2, 6, types=True), gradient_of, token_budget=40, call_tokens=0)


def test_one_call_when_calls_are_dear_and_many_when_they_are_free(encoder, make_features) -> None:
    features = make_features(3, 8)
    embed_columns(encoder, features, call_tokens=10**6)
    assert encoder.calls == [(24, 14)]
    encoder.calls.clear()
    embed_columns(encoder, features, call_tokens=0)
    real = sum(int(column["attention_mask"].sum()) for column in features)
    assert sum(rows * width for rows, width in encoder.calls) == real


def test_holes_in_a_mask_stay(encoder, gradient_of) -> None:
    mask = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0]])
    features = [{"input_ids": torch.tensor([[3, 9, 5, 6, 0], [7, 8, 0, 0, 0]]), "attention_mask": mask}]
    compare(encoder, features, gradient_of, call_tokens=0)


def test_a_row_without_tokens_embeds(encoder) -> None:
    features = [
        {"input_ids": torch.tensor([[0, 0], [3, 4]]), "attention_mask": torch.tensor([[0, 0], [1, 1]])}
    ]
    assert torch.isfinite(embed_columns(encoder, features, call_tokens=0)[0]).all()


def test_padding_takes_the_padding_id_of_the_tokenizer(encoder) -> None:
    seen = []
    encoder.tokenizer = type("Tokenizer", (), {"pad_token_id": 7})()
    encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]["input_ids"]))
    full = [
        {"input_ids": torch.ones(2, w, dtype=torch.long), "attention_mask": torch.ones(2, w)} for w in (2, 3)
    ]
    embed_columns(encoder, full, call_tokens=10**6)
    assert seen[0][:2, 2].tolist() == [7, 7]


@pytest.mark.parametrize(
    "change", [{"pixel_values": torch.ones(5, 3)}, {"token_type_ids": torch.zeros(5, 4).long()}]
)
def test_other_features_go_one_column_a_call(encoder, make_features, change) -> None:
    features = make_features(2, 5)
    features[0].update(change)
    keys = [set(column) for column in features]
    for mine, other in zip(embed_columns(encoder, features), plain(encoder, features), strict=True):
        torch.testing.assert_close(mine, other)
    assert encoder.calls[:2] == [(5, 4), (5, 9)]
    assert [set(column) for column in features] == keys


def test_a_model_without_sentence_embeddings_is_refused(make_features) -> None:
    class Tokens(torch.nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"token_embeddings": features["input_ids"]}

    with pytest.raises(ValueError, match=r"found \['token_embeddings'\]. Add a Pooling module"):
        embed_columns(Tokens(), make_features(1, 2))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("token_budget", "call_tokens"), WAYS)
def test_a_plan_holds_every_row_once_within_the_budget(seed, token_budget, call_tokens) -> None:
    lengths = np.random.default_rng(seed).integers(1, 30, size=50)
    plan = plan_chunks(lengths, token_budget, call_tokens)
    assert sorted(np.concatenate([rows for rows, _ in plan])) == list(range(50))
    assert all(lengths[rows].max() == width for rows, width in plan)
    assert all(len(rows) * width <= token_budget or len(rows) == 1 for rows, width in plan)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("token_budget", "rows"), [(40, None), (200, 7), (10**6, None), (10**6, 3)])
def test_where_padding_is_free_only_budget_and_rows_cut(seed, token_budget, rows) -> None:
    lengths = np.random.default_rng(seed).integers(1, 30, size=50)
    plan = plan_chunks(lengths, token_budget, None, rows)
    assert sorted(np.concatenate([chosen for chosen, _ in plan])) == list(range(50))
    assert all(lengths[chosen].sum() <= token_budget or len(chosen) == 1 for chosen, _ in plan)
    assert all(len(chosen) <= (rows or 50) for chosen, _ in plan)
    full = [chosen for chosen, _ in plan[:-1]]
    following = [lengths[chosen[0]] for chosen, _ in plan[1:]]
    assert all(
        len(chosen) == rows or lengths[chosen].sum() + more > token_budget
        for chosen, more in zip(full, following, strict=True)
    )


def test_a_model_that_removes_padding_is_called_once(encoder, make_features) -> None:
    encoder.without_padding = True
    embed_columns(encoder, make_features(3, 8))
    assert encoder.calls == [(24, 14)]


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_the_cheapest_of_all_cuts(seed) -> None:
    generator = np.random.default_rng(seed)
    lengths, call = generator.integers(1, 12, size=8), int(generator.integers(0, 20))

    def cost(pieces: list[np.ndarray]) -> int:
        return sum(len(piece) * max(piece) + call for piece in pieces)

    ordered = np.sort(lengths)
    cuts = [np.flatnonzero(marks) + 1 for marks in product([0, 1], repeat=7)]
    best = min(cost(np.split(ordered, places)) for places in cuts)
    assert cost([lengths[rows] for rows, _ in plan_chunks(lengths, call_tokens=call)]) == best


class TwoWays(torch.nn.Module):
    """A model of two encoders: the task says which of them a text goes through."""

    def __init__(self, one: Any, other: Any) -> None:
        super().__init__()
        self.ways = torch.nn.ModuleDict({"query": one, "document": other})

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return self.ways[features["task"]](features)


TASKS = ("query", "document", "query", "document")


@pytest.mark.parametrize("run", [None, CachedRun()], ids=["plain", "cached"])
@pytest.mark.parametrize("rows", [None, 2])
def test_columns_of_one_route_go_together(make_features, run, rows) -> None:
    model = TwoWays(TinyEncoder(), TinyEncoder(seed=1))
    features = [
        {**column, "task": task, "modality": "text"}
        for column, task in zip(make_features(4, 5), TASKS, strict=True)
    ]
    found = embed_columns(model, features, call_tokens=10**9, rows=rows, run=run)
    calls = [len(way.calls) for way in model.ways.values()]
    assert calls == ([1, 1] if rows is None else [5, 5])
    sum(place * column.square().sum() for place, column in enumerate(found, 1)).backward()
    gradients = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    expected = plain(model, features)
    sum(place * column.square().sum() for place, column in enumerate(expected, 1)).backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients, [weight.grad for weight in model.parameters()], rtol=0, atol=1e-9)


def test_other_features_are_cut_with_their_route() -> None:
    seen = []

    def model(features: dict[str, Any]) -> dict[str, Any]:
        seen.append((features["task"], len(features["pixels"])))
        return {"sentence_embedding": features["pixels"]}

    columns = [{"pixels": torch.ones(5, 2), "task": task} for task in ("query", "document")]
    found = embed_columns(model, columns, rows=2)
    assert [len(column) for column in found] == [5, 5]
    assert seen == [(task, size) for task in ("query", "document") for size in (2, 2, 1)]
