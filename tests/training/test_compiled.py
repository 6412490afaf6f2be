"""Compiled layers: equal to plain ones, for texts of any length, without compiling anew for each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModel

from ray_st.models.unpadded import packed_attention
from ray_st.training.strategies.encoder_setup import compile_encoder, layers_of

ARGS: Any = SimpleNamespace(torch_compile=True, torch_compile_backend="eager", torch_compile_mode=None)
WORDS = ["the", "weather", "is", "good", "a", "man", "eats", "pasta"]


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def texts(seed: int) -> list[str]:
    return [" ".join(WORDS[: 1 + (seed * 3 + i * 2) % 8]) for i in range(3 + seed % 3)]


@pytest.mark.filterwarnings("ignore")  # of the compiler, about code of transformers
@pytest.mark.parametrize("padded", [False, True])
def test_layers_are_compiled_once_for_all_lengths(padded: bool, tiny_model: Any) -> None:
    if padded:
        tiny_model[0].auto_model.set_attn_implementation("sdpa")
    batches = [tiny_model.tokenize(texts(seed)) for seed in range(10)]
    expected = [tiny_model(dict(batch))["sentence_embedding"] for batch in batches]
    compile_encoder(tiny_model, ARGS)
    graphs = []
    for batch, wanted in zip(batches, expected, strict=True):
        torch.testing.assert_close(tiny_model(dict(batch))["sentence_embedding"], wanted)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[-1] == graphs[4]
    if padded:
        assert not counters["graph_break"]


@torch.library.custom_op("ray_st_tests::attention", mutates_args={})
def one_op(query: torch.Tensor, ends: torch.Tensor, longest: int) -> torch.Tensor:
    """Stands in for the kernel of GPUs, which is one operation, too."""
    return query.clone()


@one_op.register_fake
def _shape_of_one_op(query: torch.Tensor, ends: torch.Tensor, longest: int) -> torch.Tensor:
    return torch.empty_like(query)


@pytest.mark.filterwarnings("ignore")
def test_where_attention_is_one_operation_a_layer_is_one_graph(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "suits_kernel", lambda states: True)
    monkeypatch.setattr(
        packed_attention,
        "KERNEL",
        lambda q, k, v, ends, _, longest, *more, **options: one_op(q, ends, longest),
    )
    compile_encoder(tiny_model.eval(), ARGS)
    graphs = []
    for seed in range(10):
        tiny_model(tiny_model.tokenize(texts(seed)))
        graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    assert graphs[0] == 1
    assert graphs[-1] == graphs[4]


@pytest.mark.parametrize(("kind", "count"), [("bert", 2), ("t5", 4), ("llama", 2), ("fnet", 2)])
def test_the_layers_of_an_encoder(kind: str, count: int) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    sizes["num_decoder_layers"] = 2
    config = AutoConfig.for_model(kind, vocab_size=9, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    with torch.device("meta"):
        found = layers_of(AutoModel.from_config(config))
    assert len(found) == count
    assert not any(isinstance(layer, torch.nn.Linear) for layer in found)
