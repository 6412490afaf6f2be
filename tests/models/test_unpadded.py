"""Running an encoder without padding gives what the padded batch gives, value and gradient."""

from __future__ import annotations

import pickle
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from ray_st.models import Transformer
from ray_st.models.encoder_loading import without_cache
from ray_st.models.positions import run_from_start
from ray_st.models.unpadded import (
    POSITIONS,
    Packing,
    find_packing,
    is_prepared,
    prepare,
    rounded,
    run_packed,
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
ROTARY = {**SIZES, "bos_token_id": 2, "eos_token_id": 3}
GROUPED = {**ROTARY, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
_BOTH = ["sliding_attention", "full_attention"]
OWN: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
    **{kind: {**SIZES, "embedding_size": 8} for kind in ("albert", "electra")},
    **{kind: {**ROTARY, "ffn_dim": 24, "word_embed_proj_dim": 16} for kind in ("gpt_neox", "opt")},
    "modernbert": {**ROTARY, "cls_token_id": 2, "sep_token_id": 3},
    **dict.fromkeys(["nomic_bert", "gte", "jina_embeddings_v3"], ROTARY),
}
DECODERS = [
    "cohere",
    "cohere2",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "granite",
    "llama",
    "ministral",
    "mistral",
    "modernbert-decoder",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "starcoder2",
]
OWN |= dict.fromkeys([*DECODERS, "embedding_gemma2_text", "eurobert", "ultrabert"], GROUPED)
OWN["modernbert-decoder"] = OWN["modernbert"]
"""Sizes of those kinds whose configuration differs from BERT's."""

T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
OWN |= {kind: {**T5, "relative_attention_num_buckets": 8} for kind in ("t5", "mt5")}
HALVES = {"t5": transformers.T5EncoderModel, "mt5": transformers.MT5EncoderModel}

DEBERTA = {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4}
OWN["deberta-v2"] = {**DEBERTA, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
DEBERTAS: dict[str, dict[str, Any]] = {
    "all distances apart": {"position_buckets": -1},
    "distances of at most three": {"position_buckets": -1, "max_relative_positions": 3},
    "as many buckets as distances": {"position_buckets": 64, "max_relative_positions": 64},
    "one projection for tokens and distances": {"share_att_key": True},
    "the query's distances": {"pos_att_type": ["c2p"]},
    "the key's distances": {"pos_att_type": ["p2c"]},
    "no distances in the scores": {"pos_att_type": []},
    "places instead of distances": {"relative_attention": False, "position_biased_input": True},
}

SLIDING = {
    "bidirectional, all layers but one": ("modernbert", {"local_attention": 4, "layer_types": _BOTH}),
    "mistral": ("mistral", {"sliding_window": 3}),
    "qwen2, upper layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3, lower layer": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 3, "layer_types": _BOTH},
    ),
    "gemma2 with soft caps": ("gemma2", {"sliding_window": 3, "layer_types": _BOTH}),
    "gemma3": ("gemma3_text", {"sliding_window": 3, "layer_types": _BOTH}),
    "gemma3, bidirectional": (
        "gemma3_text",
        {"sliding_window": 5, "layer_types": _BOTH, "use_bidirectional_attention": True},
    ),
    "a decoder made bidirectional": ("mistral", {"sliding_window": 3, "is_causal": False}),
    "a wide window": ("mistral", {"sliding_window": 9}),
}
"""Kinds whose tokens attend to near ones only, in texts of up to nine tokens."""


def encoder(kind: str, **more: Any) -> Any:
    sizes = {key: SIZES[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")}
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **OWN.get(kind, SIZES), **more})
    torch.manual_seed(0)
    # In float64 transformers' masks of Gemma 2 are infinite where its softmax, in float32, meets them.
    dtype = torch.float32 if kind == "gemma2" else torch.float64
    model = HALVES.get(kind, transformers.AutoModel.from_config)(config).to(dtype).eval()
    for weight in model.parameters():
        if weight.dim() > 1:  # as the models begin, attention is all but even
            torch.nn.init.normal_(weight, std=0.3)
    return model


def batch(lengths: list[int], left: bool = False, width: int = 9) -> dict[str, Tensor]:
    torch.manual_seed(1)
    places = torch.arange(width).flip(0) if left else torch.arange(width)
    mask = (places < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(4, 40, mask.shape) * mask + (1 - mask), "attention_mask": mask}


def run_unpadded(model: Any, inputs: dict[str, Tensor]) -> Any:
    packing = find_packing(inputs)
    assert packing is not None
    return run_packed(partial(model, **without_cache(model)), model, inputs, packing)


def outcome(model: Any, inputs: dict[str, Tensor], unpadded: bool) -> tuple[Tensor, list[Tensor]]:
    """Vectors of real tokens, and the gradient of each weight."""
    model.zero_grad()
    output = run_unpadded(model, inputs) if unpadded else run_from_start(model, inputs)
    vectors = output.last_hidden_state * inputs["attention_mask"].unsqueeze(-1)
    (vectors * torch.linspace(-1, 1, vectors.numel(), dtype=vectors.dtype).view_as(vectors)).sum().backward()
    return vectors.detach(), [
        torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in model.parameters()
    ]


def assert_alike(model: Any, mine: Any, wanted: Any) -> None:
    """Compares tensors, relative to their largest value."""
    # Norms of these kinds compute in float32 whatever the model's type.
    exact = 1e-6 if model.config.model_type.startswith(("cohere", "gemma", "embedding_gemma")) else 1e-10
    mine, wanted = ([each] if isinstance(each, Tensor) else each for each in (mine, wanted))
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(
            one, other, rtol=0, atol=exact * max(1.0, other.detach().abs().max().item())
        )


def assert_as_padded(model: Any, inputs: dict[str, Tensor]) -> None:
    plain = outcome(model, inputs, unpadded=False)
    prepare(model)
    assert is_prepared(model)
    for mine, wanted in zip(outcome(model, inputs, unpadded=True), plain, strict=True):
        assert_alike(model, mine, wanted)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("kind", sorted(POSITIONS))
def test_value_and_gradient_equal_those_of_the_padded_batch(kind, left) -> None:
    assert_as_padded(encoder(kind), batch([4, 9, 1, 4, 7, 4], left))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("name", SLIDING)
def test_windows_are_those_of_the_padded_batch(name, left) -> None:
    kind, more = SLIDING[name]
    assert_as_padded(encoder(kind, **more), batch([4, 9, 1, 4, 8, 4, 9], left))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("name", [*sorted(POSITIONS), *SLIDING])
def test_vectors_equal_those_of_each_text_alone(name, left) -> None:
    kind, more = SLIDING.get(name, (name, {}))
    model, inputs = encoder(kind, **more), batch([4, 9, 0, 4, 8, 1], left)
    texts = [ids[mask.bool()][None] for ids, mask in zip(*inputs.values(), strict=True)]
    wanted = [model(input_ids=text).last_hidden_state[0] for text in texts if text.numel()]
    prepare(model)
    output = run_unpadded(model, inputs).last_hidden_state
    found = [vectors[mask.bool()] for vectors, mask in zip(output, inputs["attention_mask"], strict=True)]
    for mine, alone in zip([vectors for vectors in found if len(vectors)], wanted, strict=True):
        assert_alike(model, mine, alone)
    assert not output[2].any()


@pytest.mark.parametrize("name", [*DECODERS, *SLIDING])
def test_a_prepared_decoder_still_takes_padded_batches(name) -> None:
    kind, more = SLIDING.get(name, (name, {}))
    model, inputs = encoder(kind, **more), batch([4, 9, 6])
    plain = [model(**given).last_hidden_state for given in (inputs, {"input_ids": inputs["input_ids"]})]
    prepare(model)
    for wanted, given in zip(plain, (inputs, {"input_ids": inputs["input_ids"]}), strict=True):
        real = inputs["attention_mask"].bool()
        assert_alike(model, model(**given).last_hidden_state[real], wanted[real])


def test_bert_as_a_decoder_attends_to_what_is_before() -> None:
    assert_as_padded(encoder("bert", is_decoder=True), batch([4, 9, 1, 4]))


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


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "mpnet", "qwen3"])
def test_all_layers_are_given_where_they_are_asked_for(kind) -> None:
    model, inputs = encoder(kind), batch([5, 9, 3])
    model.config.output_hidden_states = True
    plain = model(**inputs).hidden_states
    prepare(model)
    real = inputs["attention_mask"].bool()
    for mine, wanted in zip(run_unpadded(model, inputs).hidden_states, plain, strict=True):
        torch.testing.assert_close(mine[real], wanted[real])


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "mpnet", "t5"])
def test_a_prepared_encoder_still_takes_padded_batches_and_its_setting_is_not_saved(kind, tmp_path) -> None:
    model, inputs = encoder(kind), batch([5, 9, 3])
    plain = model(**inputs).last_hidden_state
    prepare(model)
    torch.testing.assert_close(model(**inputs).last_hidden_state, plain)
    no_mask = {"input_ids": inputs["input_ids"]}
    assert model(**no_mask).last_hidden_state.shape == (3, 9, 16)
    model.save_pretrained(tmp_path)
    assert "unpadded" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert", "gemma2", "qwen3", "t5"])
def test_gradient_checkpointing_gives_the_same_gradient(kind) -> None:
    undropped = {"dropout_rate": 0.0} if kind == "t5" else {}
    model, inputs = encoder(kind, **undropped).train(), batch([5, 9, 3])
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    prepare(model)
    wanted = outcome(model, inputs, unpadded=True)
    model.activation_checkpointing_enable({"use_reentrant": False})
    for mine, other in zip(outcome(model, inputs, unpadded=True), wanted, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "gemma2", "modernbert", "mpnet", "qwen3", "t5"])
def test_dropout_and_bf16_run(kind) -> None:
    model, inputs = encoder(kind).float().train(), batch([5, 9, 3])
    prepare(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = run_unpadded(model, inputs).last_hidden_state.float().sum()
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("case", DEBERTAS)
def test_every_kind_of_deberta(case) -> None:
    assert_as_padded(encoder("deberta-v2", **DEBERTAS[case]), batch([5, 9, 1, 3, 9, 8]))


def test_a_deberta_with_a_convolution_over_tokens_is_left_alone() -> None:
    other = encoder("deberta-v2", conv_kernel_size=3)
    prepare(other)
    assert not is_prepared(other)


def test_models_with_other_attention_are_left_alone(tiny_encoder) -> None:
    other = transformers.AutoModel.from_config(transformers.DebertaConfig(**SIZES))
    prepare(other)
    assert not is_prepared(other)
    chosen = Transformer(tiny_encoder, model_args={"attn_implementation": "eager"})
    assert not chosen.without_padding
    assert Transformer(tiny_encoder).without_padding


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_transformer_takes_lengths_that_are_known_on_the_host(side, tiny_encoder) -> None:
    transformer = Transformer(tiny_encoder).eval()
    transformer.tokenizer.padding_side = side
    features = transformer.tokenize(["a man eats", "the weather is good today", ""])
    lengths = features["attention_mask"].sum(1)
    wanted = transformer(features)["token_embeddings"]
    known = {**features, "token_lengths": lengths, "padding_side": side}
    torch.testing.assert_close(transformer(known)["token_embeddings"], wanted)
    # They are believed: a text that is said to be shorter loses a token.
    fewer = transformer({**known, "token_lengths": lengths - 1})["token_embeddings"]
    assert int((fewer != 0).any(2).sum()) == int(lengths.sum()) - 3
    moved = {**known, "token_lengths": (lengths - 1).to("meta")}  # as by code that moves whatever it finds
    torch.testing.assert_close(transformer(moved)["token_embeddings"], wanted)


def test_an_adapter_learns_the_same_without_padding() -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.0, init_lora_weights=False)
    model, inputs = encoder("qwen3", **SLIDING["qwen3, lower layer"][1]), batch([5, 9, 3, 8], left=True)
    model.add_adapter(settings)
    assert_as_padded(model, inputs)


def test_full_batches_go_the_plain_way() -> None:
    full = batch([9, 9])
    assert find_packing(full) is None
    assert find_packing({"input_ids": full["input_ids"]}) is None
    assert find_packing({**batch([9, 2]), "position_ids": torch.zeros(2, 9)}) is None
    assert find_packing(batch([0, 0])) is None
    assert find_packing(batch([9, 2])) is not None


def test_the_bias_of_t5_is_computed_for_the_longest_text_alone(monkeypatch) -> None:
    model, inputs = encoder("t5"), batch([5, 9, 3] * 20)
    asked = []
    kind = type(model.encoder.block[0].layer[0].SelfAttention)
    compute = kind.compute_bias
    monkeypatch.setattr(kind, "compute_bias", lambda *given: asked.append(given[1:]) or compute(*given))
    prepare(model)
    run_unpadded(model, inputs)
    assert asked == [(9, 9)]


@pytest.mark.parametrize("kind", ["deberta-v2", "mpnet"])
def test_replaced_attention_is_copied_and_sent_as_it_is(kind) -> None:
    model, inputs = encoder(kind), batch([5, 9, 3])
    prepare(model)
    wanted = run_unpadded(model, inputs).last_hidden_state
    for other in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert is_prepared(other)
        assert torch.equal(run_unpadded(other, inputs).last_hidden_state, wanted)


@pytest.mark.parametrize("seed", range(20))
def test_a_packing_holds_every_real_token_once(seed) -> None:
    torch.manual_seed(seed)
    mask = (torch.rand(8, 12) < 0.6).long()
    mask[:, 0] = 1
    packing = Packing.of(mask)
    assert sorted(packing.tokens.tolist()) == mask.reshape(-1).nonzero()[:, 0].tolist()
    assert sum(group.tokens for group in packing.groups) == int(mask.sum())
    assert packing.pack(mask).shape == (1, rounded(int(mask.sum())))
    assert packing.ends.diff().tolist() == sorted(mask.sum(1).tolist())
    assert packing.longest == int(mask.sum(1).max())
    states = torch.randn(1, rounded(int(mask.sum())), 3)
    assert torch.equal(packing.pad(states).reshape(-1, 3)[packing.tokens], states[0, : len(packing.tokens)])
    rows = torch.randn(int(mask.sum()), 2, 4)
    for group, part in zip(packing.groups, rows.split([g.tokens for g in packing.groups]), strict=True):
        assert torch.equal(group.collect(group.spread(part)), part)
        assert group.holds_token().sum(1).tolist() == group.lengths.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("seed", range(10))
def test_lengths_known_on_the_host_give_the_packing_that_the_mask_gives(seed, side) -> None:
    torch.manual_seed(seed)
    inputs = batch(torch.randint(0, 10, (7,)).tolist(), side == "left")
    lengths = inputs["attention_mask"].sum(1)
    found, wanted = find_packing(inputs, lengths, side), find_packing(inputs)
    assert found is not None
    assert wanted is not None
    for name in ("tokens", "row", "ends"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    assert (found.longest, found.shape) == (wanted.longest, wanted.shape)
    for mine, other in zip(found.groups, wanted.groups, strict=True):
        assert mine.shape == other.shape
        assert mine.lengths.tolist() == other.lengths.tolist()


def test_batches_have_few_numbers_of_tokens_and_few_spare_ones() -> None:
    sizes = [rounded(tokens) for tokens in range(256, 8192)]
    assert all(size - tokens < tokens / 32 for tokens, size in enumerate(sizes, start=256))
    assert len(set(sizes)) <= 32 * 5 + 1
