"""Running an encoder without padding gives what the padded batch gives, value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from ray_st.models import Transformer
from ray_st.models.positions import run_from_start
from ray_st.models.unpadded import (
    POSITIONS,
    Packing,
    has_padding,
    is_prepared,
    prepare,
    rounded,
    run_unpadded,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 30,
    "pad_token_id": 1,
}
NAMES = {
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
    "electra": {"embedding_size": 8},
}


def encoder(kind: str) -> Any:
    own = NAMES.get(kind, {})
    sizes = (
        {key: SIZES[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")}
        if "dim" in own
        else SIZES
    )
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **own}, attn_implementation="sdpa")
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config).double().eval()


def batch(lengths: list[int], left: bool = False, width: int = 9) -> dict[str, Tensor]:
    torch.manual_seed(1)
    places = torch.arange(width).flip(0) if left else torch.arange(width)
    mask = (places < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(2, 40, mask.shape) * mask + (1 - mask), "attention_mask": mask}


def outcome(model: Any, inputs: dict[str, Tensor], unpadded: bool) -> tuple[Tensor, list[Tensor]]:
    """Vectors of real tokens, and the gradient of each weight."""
    model.zero_grad()
    output = run_unpadded(model, inputs) if unpadded else run_from_start(model, inputs)
    vectors = output.last_hidden_state * inputs["attention_mask"].unsqueeze(-1)
    (vectors * torch.linspace(-1, 1, vectors.numel(), dtype=vectors.dtype).view_as(vectors)).sum().backward()
    return vectors.detach(), [
        torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in model.parameters()
    ]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("kind", sorted(POSITIONS))
def test_value_and_gradient_equal_those_of_the_padded_batch(kind, left) -> None:
    model, inputs = encoder(kind), batch([4, 9, 1, 4, 7, 4], left)
    plain = outcome(model, inputs, unpadded=False)
    prepare(model)
    assert is_prepared(model)
    for mine, wanted in zip(outcome(model, inputs, unpadded=True), plain, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


def test_token_types_and_holes_in_the_mask(monkeypatch) -> None:
    model, inputs = encoder("bert"), batch([5, 9, 3])
    inputs["attention_mask"][1, 4] = 0
    inputs["token_type_ids"] = (torch.arange(9) > 2).long().expand(3, 9)
    plain = outcome(model, inputs, unpadded=False)
    prepare(model)
    for mine, wanted in zip(outcome(model, inputs, unpadded=True), plain, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


def test_a_text_without_tokens_gets_zeros_and_does_no_harm() -> None:
    model, inputs = encoder("bert"), batch([5, 0, 3])
    prepare(model)
    output = run_unpadded(model, inputs).last_hidden_state
    assert not output[1].any()
    alone = run_unpadded(model, {key: value[[0, 2]] for key, value in inputs.items()}).last_hidden_state
    torch.testing.assert_close(output[[0, 2]], alone)


def test_all_layers_are_given_where_they_are_asked_for() -> None:
    model, inputs = encoder("bert"), batch([5, 9, 3])
    model.config.output_hidden_states = True
    plain = model(**inputs).hidden_states
    prepare(model)
    real = inputs["attention_mask"].bool()
    for mine, wanted in zip(run_unpadded(model, inputs).hidden_states, plain, strict=True):
        torch.testing.assert_close(mine[real], wanted[real])


def test_a_prepared_encoder_still_takes_padded_batches_and_its_setting_is_not_saved(tmp_path) -> None:
    model, inputs = encoder("bert"), batch([5, 9, 3])
    plain = model(**inputs).last_hidden_state
    prepare(model)
    torch.testing.assert_close(model(**inputs).last_hidden_state, plain)
    no_mask = {"input_ids": inputs["input_ids"]}
    assert model(**no_mask).last_hidden_state.shape == (3, 9, 16)
    model.save_pretrained(tmp_path)
    assert "unpadded" not in (tmp_path / "config.json").read_text()


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    model, inputs = encoder("bert").train(), batch([5, 9, 3])
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    prepare(model)
    wanted = outcome(model, inputs, unpadded=True)
    model.activation_checkpointing_enable({"use_reentrant": False})
    for mine, other in zip(outcome(model, inputs, unpadded=True), wanted, strict=True):
        torch.testing.assert_close(mine, other)


def test_dropout_and_bf16_run() -> None:
    model, inputs = encoder("bert").float().train(), batch([5, 9, 3])
    prepare(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = run_unpadded(model, inputs).last_hidden_state.float().sum()
    loss.backward()
    assert torch.isfinite(loss)


def test_models_with_other_attention_are_left_alone(tiny_encoder) -> None:
    config = transformers.MPNetConfig(**SIZES)
    other = transformers.MPNetModel(config)
    prepare(other)
    assert not is_prepared(other)
    chosen = Transformer(tiny_encoder, model_args={"attn_implementation": "eager"})
    assert not chosen.without_padding
    assert Transformer(tiny_encoder).without_padding


def test_full_batches_go_the_plain_way() -> None:
    full = batch([9, 9])
    assert not has_padding(full)
    assert not has_padding({"input_ids": full["input_ids"]})
    assert not has_padding({**batch([9, 2]), "position_ids": torch.zeros(2, 9)})
    assert has_padding(batch([9, 2]))


@pytest.mark.parametrize("seed", range(20))
def test_a_packing_holds_every_real_token_once(seed) -> None:
    torch.manual_seed(seed)
    mask = (torch.rand(8, 12) < 0.6).long()
    mask[:, 0] = 1
    packing = Packing.of(mask)
    assert sorted(packing.tokens.tolist()) == mask.reshape(-1).nonzero()[:, 0].tolist()
    assert sum(group.tokens for group in packing.groups) == int(mask.sum())
    assert packing.pack(mask).shape == (1, rounded(int(mask.sum())))
    states = torch.randn(1, rounded(int(mask.sum())), 3)
    assert torch.equal(packing.pad(states).reshape(-1, 3)[packing.tokens], states[0, : len(packing.tokens)])
    rows = torch.randn(int(mask.sum()), 2, 4)
    for group, part in zip(packing.groups, rows.split([g.tokens for g in packing.groups]), strict=True):
        assert torch.equal(group.collect(group.spread(part)), part)


def test_batches_have_few_numbers_of_tokens_and_few_spare_ones() -> None:
    sizes = [rounded(tokens) for tokens in range(256, 8192)]
    assert all(size - tokens < tokens / 32 for tokens, size in enumerate(sizes, start=256))
    assert len(set(sizes)) <= 32 * 5 + 1
