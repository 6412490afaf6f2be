"""What a step takes of a device's memory, against what :mod:`ray_st.losses.budget` promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from ray_st.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
from ray_st.losses.budget import activation_bytes, default_budget
from ray_st.models import Pooling, SentenceTransformer, Transformer

from .conftest import GPU

WIDTH = 64


@pytest.fixture
def model(tiny_encoder: Path, tmp_path: Path) -> Any:
    """An encoder of two layers and 128 dimensions, with dropout, for 64 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=WIDTH, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    modules = [Transformer(tmp_path / "encoder", max_seq_length=WIDTH), Pooling(128)]
    return SentenceTransformer(modules=modules, device="cpu").train()


def rows(count: int, device: torch.device) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 50, (count, WIDTH))
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


def peak(act: Callable[[], Any]) -> int:
    """Bytes that something takes at most, beyond what is taken already."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = act()
    found = torch.cuda.max_memory_allocated() - before
    del kept
    return found


def test_activations_of_a_call_are_within_the_estimate(device: torch.device, model: Any) -> None:
    model.to(device)
    given = rows(16, device)
    model(given)["sentence_embedding"].sum().backward()  # libraries take their own memory
    found = peak(lambda: model(given))
    estimate = activation_bytes(model) * 16 * WIDTH
    assert 0.4 * estimate < found < 1.1 * estimate


def test_a_cached_step_takes_one_calls_activations(device: torch.device, model: Any) -> None:
    model.to(device)
    columns = [rows(64, device), rows(64, device)]
    plain, cached = MultipleNegativesRankingLoss(model), CachedMultipleNegativesRankingLoss(model)
    cached.cache(None, mini_batch_num_tokens=16 * WIDTH)

    def step(loss: Any) -> Callable[[], None]:
        return lambda: loss(columns).backward()

    step(cached)()  # allocates the gradients
    a_call = activation_bytes(model) * 16 * WIDTH
    weights = sum(weight.nbytes for weight in model.parameters())
    assert peak(step(cached)) < 1.5 * a_call + 2 * weights
    assert peak(step(plain)) > 3 * a_call


@pytest.fixture
def a_quarter() -> Iterator[None]:
    """A process that Ray has granted a quarter of a GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.25)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("device", [GPU], indirect=True)
def test_a_fraction_of_a_gpu(device: torch.device, model: Any, request: pytest.FixtureRequest) -> None:
    whole = default_budget(model.to(device))
    request.getfixturevalue("a_quarter")
    assert default_budget(model) == pytest.approx(whole / 4, rel=0.01)
    total = torch.cuda.get_device_properties(device).total_memory
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(int(total * 0.3), dtype=torch.uint8, device=device)
    torch.empty(int(total * 0.1), dtype=torch.uint8, device=device)
