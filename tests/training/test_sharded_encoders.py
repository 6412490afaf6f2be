"""Two gloo processes with sharded weights (FSDP) against one, for encoders whose attention without padding is their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from torch import nn

from processes import run_ranks
from ray_st import SentenceTransformer
from ray_st.models import Pooling, Transformer
from ray_st.training.strategies.sharding.layout import units
from ray_st.training.strategies.step_module import Step
from ray_st.world import World
from sharded_runs import PAIRS, Runs, assert_equal, cached, distances, join, ranking

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DISTANCES = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "t5": {**T5, "relative_attention_num_buckets": 8},
    "mpnet": {**SIZES, **DROPOUT},
    "deberta-v2": {**SIZES, **DROPOUT, **DISTANCES},
}
LAYERS = {"t5": "T5Block", "mpnet": "MPNetLayer", "deberta-v2": "DebertaV2Layer"}
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "all at once": (ranking, {}),
    "cached": (cached, {}),
    "recomputed": (ranking, {"activation_checkpointing": True}),
}
"""The loss, and ``fsdp_config``."""
PLAIN = {"optim": "sgd", "learning_rate": 0.1}  # Adam makes rounding noise as large as any gradient


def save_encoder(kind: str, tokenizer: Path, folder: Path) -> None:
    """Saves a small random encoder with mean pooling."""
    words = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(words), **KINDS[kind])
    torch.manual_seed(0)
    kinds = {"t5": transformers.T5EncoderModel}
    model = kinds.get(kind, transformers.AutoModel.from_config)(config)
    for weight in model.parameters():
        if weight.dim() > 1:  # as the models begin, attention is all but even
            nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder / "encoder")
    words.save_pretrained(folder / "encoder")
    parts = [Transformer(folder / "encoder"), Pooling(32)]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder))


def work(rank: int, size: int, folder: str) -> None:
    join(rank, size, folder)
    found: dict[str, Any] = {}
    for kind in KINDS:
        runs = Runs(World(rank, size), f"{folder}/{kind}", f"{folder}/{kind}")
        for name, (loss, config) in RUNS.items():
            found[f"{kind} {name}"] = runs.run(name, loss, PAIRS, True, config=config, **PLAIN)
        for fsdp in (False, True):
            found[f"{kind} bfloat16 {fsdp}"] = runs.run("bfloat16", ranking, PAIRS, fsdp, bf16=True, **PLAIN)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for kind in KINDS:
        save_encoder(kind, tiny_encoder, folder / kind)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each rank found."""
    run_ranks(work, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def alone(model: Path, loss: Any, folder: Path) -> Any:
    """The run of one process, with whole weights."""
    runs = Runs(World(), str(folder), str(model))
    return runs.run("alone", loss, PAIRS, False, per_device_train_batch_size=4, **PLAIN)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_like_one_process(
    kind: str, name: str, ranks: list[Any], folder: Path, tmp_path: Path
) -> None:
    loss, _ = RUNS[name]
    expected = alone(folder / kind, loss, tmp_path)
    for rank in ranks:
        assert_equal(rank[f"{kind} {name}"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sharding_adds_little_to_the_rounding_of_autocast(
    kind: str, ranks: list[Any], folder: Path, tmp_path: Path
) -> None:
    """Autocast is compared with its own error; see the test of that name for BERT."""
    exact = alone(folder / kind, ranking, tmp_path)
    for rank in ranks:
        whole, sharded = (rank[f"{kind} bfloat16 {fsdp}"] for fsdp in (False, True))
        assert (distances(sharded, whole) <= distances(whole, exact) / 10).all()


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_gathered_one_at_a_time(kind: str, folder: Path) -> None:
    model = SentenceTransformer(folder / kind, device="cpu")
    assert model.without_padding
    names = [type(part).__name__ for part in units(Step(model, ranking(model)), {})]
    assert names.count(LAYERS[kind]) == 2
