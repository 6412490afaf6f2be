"""Embedders made of language models, trained in this process: adapters beside a frozen base in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from ray.train import ScalingConfig
from safetensors.torch import load_file

from decoder_folders import DIMENSION, WORDS, save_decoder, with_adapter
from ray_st import SentenceTransformer
from ray_st.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss
from ray_st.models import Pooling, Transformer

pytest.importorskip("peft")

pytestmark = [
    pytest.mark.usefixtures("fresh_accelerator"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft's
]
HERE = ScalingConfig(num_workers=0)
ROWS = Dataset.from_dict(
    {
        "query": [f"{WORDS[i]} {WORDS[i * 5 % 16]} man" for i in range(12)],
        "answer": [f"{WORDS[i * 7 % 16]} the {WORDS[i]} " * (1 + i % 3) for i in range(12)],
    }
)


def embedder(folder: Path, how: str = "plain") -> Any:
    model = SentenceTransformer(modules=[Transformer(folder), Pooling(DIMENSION, "lasttoken")], device="cpu")
    return with_adapter(model, how)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def trained(model: Any) -> list[torch.Tensor]:
    return [weight.detach() for weight in model.parameters() if weight.requires_grad]


def kinds(model: Any) -> set[tuple[torch.dtype, bool]]:
    return {(weight.dtype, weight.requires_grad) for weight in model.parameters()}


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("kind", "how"), [("qwen3", "added"), ("mistral", "by hand"), ("gemma3_text", "by hand")]
)
def test_adapters_alone_are_trained_in_float32_saved_and_resumed(
    kind: str, how: str, make: Any, tmp_path: Path
) -> None:
    folder = save_decoder(tmp_path / "base", kind, torch.bfloat16)
    model = embedder(folder, how)
    before = weights(model)
    assert kinds(model) == {(torch.bfloat16, False), (torch.float32, True)}
    saving = {"save_strategy": "steps", "save_steps": 1, "prompts": {"query": "find the document : "}}
    best = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    options = {"train_dataset": ROWS, "scaling_config": HERE}
    trainer = make(model=model, arguments={**saving, **best}, eval_dataset=ROWS, **options)
    trainer.train()
    moved = {name for name, weight in weights(model).items() if not torch.equal(weight, before[name])}
    assert {name for name in before if "lora_B" in name} <= moved
    assert all("lora_" in name for name in moved)
    assert kinds(model) == {(torch.bfloat16, False), (torch.float32, True)}
    checkpoint = Path(trainer.state.best_model_checkpoint)
    stored = load_file(checkpoint / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert not (checkpoint / "model.safetensors").exists()
    sums = [[tensor.sum() for tensor in tensors] for tensors in (stored.values(), trained(model))]
    torch.testing.assert_close(*map(sorted, sums), atol=0, rtol=0)
    again = make(model=embedder(folder, how), arguments=saving, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert losses(again) == losses(trainer)


def test_the_loss_sees_float32_however_an_adapter_was_put_in(make: Any, tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "base", "qwen3", torch.bfloat16)
    found = []
    for how in ("added", "by hand"):
        model = embedder(folder, how)
        loss = MatryoshkaLoss(model, CachedMultipleNegativesRankingLoss(model), [DIMENSION, 8])
        trainer = make(model=model, loss=loss, train_dataset=ROWS, scaling_config=HERE)
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_all_weights_of_a_folder_in_bfloat16_are_trained_as_in_float32(make: Any, tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "base", "gemma3_text", torch.bfloat16)
    found = []
    for model in (embedder(folder), embedder(folder).float()):
        trainer = make(model=model, train_dataset=ROWS, scaling_config=HERE)
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == found[1]


@pytest.mark.slow
def test_recomputed_activations_of_a_frozen_base(make: Any, tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "base", "qwen3")
    found = []
    for recompute in (False, True):
        arguments = {
            "gradient_checkpointing": recompute,
            "gradient_checkpointing_kwargs": {"use_reentrant": True} if recompute else None,
        }
        options = {"model": embedder(folder, "by hand"), "train_dataset": ROWS, "scaling_config": HERE}
        trainer = make(arguments=arguments, **options)
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == found[1]
