"""The token budget that follows from the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from ray_st.losses.budget import (
    CPU_MEMORY,
    DEFAULT_TOKENS,
    DEVICE_SHARE,
    LEAST_TOKENS,
    activation_bytes,
    default_budget,
)


def saved_bytes(model: torch.nn.Module, rows: int, width: int) -> float:
    """What autograd saves in a forward pass, weights aside, for each token."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(5, 50, (rows, width))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert held["sentence_embedding"].requires_grad
    return sum(seen.values()) / ids.numel()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_estimate_is_near_what_autograd_saves_and_not_below(tiny_model, dropout) -> None:
    model = tiny_model.train()
    model.max_seq_length = 48
    model.config.attention_probs_dropout_prob = dropout
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    found, estimate = saved_bytes(model, 16, 48), activation_bytes(model)
    assert 0.9 * found <= estimate <= 3 * found


SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {**SIZES, "head_dim": 32, "num_key_value_heads": 2}
KINDS = {
    "bert": SIZES,
    "modernbert": SIZES,
    "qwen3": GATED,
    "llama": {**SIZES, "num_key_value_heads": 4},
    "gemma3_text": GATED,
}


class Encoder(torch.nn.Module):
    """An encoder as a model, which states its sizes."""

    def __init__(self, kind: str, **settings: Any) -> None:
        super().__init__()
        special = dict.fromkeys(
            ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0
        )
        self.config = AutoConfig.for_model(kind, vocab_size=60, **KINDS[kind], **special, **settings)
        self.max_seq_length = 48
        self.auto_model = AutoModel.from_config(self.config)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        found = self.auto_model(**features, use_cache=False).last_hidden_state.mean(1)
        return {"sentence_embedding": found}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["as it is", "eager", "dropout", "adapters", "few adapters"])
def test_the_estimate_knows_what_is_kept(kind: str, how: str) -> None:
    name = "attention_probs_dropout_prob" if kind == "bert" else "attention_dropout"
    settings: dict[str, Any] = {name: 0.1 if how == "dropout" else 0.0}
    settings |= {"hidden_dropout_prob": 0.0} if kind == "bert" else {}
    if kind == "bert" and how == "dropout":
        settings["hidden_dropout_prob"] = 0.1
    model = Encoder(kind, attn_implementation="eager" if how == "eager" else "sdpa", **settings).train()
    if "adapters" in how:
        peft = pytest.importorskip("peft")
        few = r".*(query|value|Wqkv|q_proj|v_proj)"
        targets = few if how == "few adapters" else "all-linear"
        model.auto_model.add_adapter(peft.LoraConfig(r=4, target_modules=targets))
    assert 0.9 <= activation_bytes(model) / saved_bytes(model, 32, 48) <= 1.6


def test_layers_that_are_recomputed_keep_one_vector_each() -> None:
    model = Encoder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    whole = activation_bytes(model)
    for part in model.modules():
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = True
    assert activation_bytes(model) == whole / 3 + 3 * 128 * 4


def test_a_larger_model_gets_fewer_tokens(tiny_model) -> None:
    small = default_budget(tiny_model)
    tiny_model.config.num_hidden_layers *= 2
    assert default_budget(tiny_model) == pytest.approx(small / 2, rel=0.01)
    assert small * activation_bytes(tiny_model) / 2 <= CPU_MEMORY
    tiny_model.config.hidden_size = 10**6
    assert default_budget(tiny_model) == LEAST_TOKENS


def test_a_share_of_a_gpu_has_that_share_of_the_tokens(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, shares = 80 * 2**30, iter([1.0, 0.25])
    gpu = SimpleNamespace(
        device=torch.device("cuda", 3), dtype=torch.float32, numel=lambda: 1, requires_grad=True
    )
    monkeypatch.setattr(tiny_model, "parameters", lambda: iter([gpu]))
    properties = {gpu.device: SimpleNamespace(total_memory=memory)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: next(shares))
    whole, quarter = default_budget(tiny_model), default_budget(tiny_model)
    assert whole == int(memory * DEVICE_SHARE) // activation_bytes(tiny_model)
    assert quarter == whole // 4


def test_a_model_that_tells_no_sizes_gets_the_default() -> None:
    assert activation_bytes(torch.nn.Linear(2, 2)) is None
    assert default_budget(torch.nn.Linear(2, 2)) == DEFAULT_TOKENS
