from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ray_st import SentenceTransformer, losses
from ray_st.models import Pooling, Transformer

TEXTS = [
    ["weather good", "man pasta", "sunny"],
    ["the weather is good", "a man eats pasta", "sunny is the weather of the document"],
]
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' report of the new cross attention


@pytest.fixture
def loss(tiny_model) -> Any:
    torch.manual_seed(0)
    return losses.DenoisingAutoEncoderLoss(tiny_model).eval()


def features_of(model: Any) -> list[dict[str, Any]]:
    return [model.tokenize(texts) for texts in TEXTS]


def test_value_and_gradient_are_the_peers(loss, tiny_model, tiny_folder, peer) -> None:
    from sentence_transformers.sentence_transformer import losses as peers

    other = peer.SentenceTransformer(str(tiny_folder), device="cpu")
    theirs = peers.DenoisingAutoEncoderLoss(other).eval()
    theirs.decoder.load_state_dict(loss.decoder.state_dict())
    values = [loss(features_of(tiny_model)), theirs(features_of(tiny_model), None)]
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-5)
    for value in values:
        value.backward()
    name = "encoder.layer.0.attention.self.query.weight"
    mine, peers_own = (dict(m[0].auto_model.named_parameters())[name].grad for m in (tiny_model, other))
    torch.testing.assert_close(mine, peers_own, rtol=1e-3, atol=1e-5)


def test_weights_are_the_encoders_own(loss, tiny_model) -> None:
    encoder = tiny_model[0].auto_model
    decoder = dict(loss.decoder.bert.named_parameters())
    shared = [name for name, weight in encoder.named_parameters() if decoder[name] is weight]
    assert len(shared) == len(list(encoder.named_parameters()))
    assert loss.decoder.get_output_embeddings().weight is encoder.embeddings.word_embeddings.weight
    own = {name for name, _ in loss.named_parameters() if not name.startswith("model.")}
    assert own
    assert all("crossattention" in name or name.startswith("decoder.cls") for name in own)


def test_slices_are_the_whole_by_tokens(loss, tiny_model) -> None:
    features = features_of(tiny_model)
    whole = loss(features)
    seen: list[torch.Tensor] = []

    class Gather:
        idle = False

        def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
            seen.append(rows)
            return seen[0], 0

    loss.bind(Gather())
    assert loss(features) == whole
    parts = [
        loss([{key: value[part] for key, value in column.items()} for column in features]) * share
        for part, share in ((slice(0, 2), 2 / 3), (slice(2, 3), 1 / 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


def gradient(value: torch.Tensor, loss: Any) -> torch.Tensor:
    loss.zero_grad()
    value.backward()
    return torch.cat([w.grad.float().reshape(-1) for w in loss.parameters() if w.grad is not None])


def test_order_of_rows_and_the_cache_do_not_matter(loss, tiny_model) -> None:
    features = features_of(tiny_model)
    plain = loss(features)
    wanted = gradient(plain, loss)
    turned = [{key: value[[2, 0, 1]] for key, value in column.items()} for column in features]
    for columns, size in ((turned, None), (features, 1)):
        loss.cache(size)
        value = loss(columns)
        torch.testing.assert_close(value, plain)
        torch.testing.assert_close(gradient(value, loss), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["autocast", "model"])
def test_bfloat16_is_close_to_float32(loss, tiny_model, kind) -> None:
    features = features_of(tiny_model)
    wanted = loss(features)
    direction = gradient(wanted, loss)
    if kind == "model":
        loss.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        found = loss(features)
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.05)
    assert torch.cosine_similarity(gradient(found, loss), direction, dim=0) > 0.95


def test_another_decoder_gets_its_own_tokens(tiny_model, tiny_encoder) -> None:
    loss = losses.DenoisingAutoEncoderLoss(tiny_model, str(tiny_encoder), tie_encoder_decoder=False)
    plain = loss(features_of(tiny_model))
    loss.need_retokenization = True  # the same tokenizer, by way of the texts
    torch.testing.assert_close(loss(features_of(tiny_model)), plain)
    assert loss.get_config_dict() == {"decoder_name_or_path": str(tiny_encoder), "need_retokenization": True}


def test_a_decoder_whose_parts_are_elsewhere_is_refused(tiny_model, tiny_encoder, tmp_path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "decoder")
    index = {"weight_map": {"a": "../encoder/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"in the index's own folder"):
        losses.DenoisingAutoEncoderLoss(tiny_model, str(folder), tie_encoder_decoder=False)


def test_bad_choices_are_refused(tiny_model, tiny_encoder, encoder, caplog) -> None:
    with pytest.raises(ValueError, match="decoder_name_or_path must name a decoder"):
        losses.DenoisingAutoEncoderLoss(tiny_model, tie_encoder_decoder=False)
    with pytest.raises(ValueError, match="TinyEncoder has none"):
        losses.DenoisingAutoEncoderLoss(encoder)
    with caplog.at_level(logging.WARNING):
        losses.DenoisingAutoEncoderLoss(tiny_model, "another")
    assert "is not used" in caplog.text


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["Qwen3", "Llama", "OPT", "GPT2", "Roberta", "Electra"])
def test_a_decoder_attends_to_the_embedding_or_is_refused(
    kind: str, tied: bool, tiny_model: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 120,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    if kind != "GPT2":
        sizes["intermediate_size" if kind != "OPT" else "ffn_dim"] = 32
    if kind in ("Qwen3", "Llama"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 16}
    if kind == "OPT":
        sizes["word_embed_proj_dim"] = 32
    config = getattr(transformers, f"{kind}Config")(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    getattr(transformers, f"{kind}ForCausalLM" if kind != "GPT2" else "GPT2LMHeadModel")(
        config
    ).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    if tied:
        tiny_model = SentenceTransformer(modules=[Transformer(tmp_path), Pooling(32)], device="cpu")
    options = {} if tied else {"decoder_name_or_path": str(tmp_path), "tie_encoder_decoder": False}
    if kind in ("GPT2", "Roberta", "Electra"):
        losses.DenoisingAutoEncoderLoss(tiny_model, **options)
    else:
        with pytest.raises(
            ValueError, match=rf"{kind}ForCausalLM, .* has no cross attention: it would ignore the emb"
        ):
            losses.DenoisingAutoEncoderLoss(tiny_model, **options)
