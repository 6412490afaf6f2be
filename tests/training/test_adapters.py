"""Training an adapted model: only the adapter moves, checkpoints hold it alone, and a run continues from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
from ray_st.training.data.local_source import local_context

peft = pytest.importorskip("peft")

PAIRS = {"a": [f"one {i}" for i in range(12)], "b": [f"two {i}" for i in range(12)]}


# peft asks by the older name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(params=["added", "by hand"])
def adapted(tiny_folder: Path, request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    model = SentenceTransformer(tiny_folder, device="cpu")
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, lora_dropout=0.0)
    if request.param == "added":
        model.add_adapter(config, "mine")
    else:
        model[0].auto_model = peft.get_peft_model(model[0].auto_model, config, "mine")
    return model


def loop(model: Any, folder: Path, kind: Any = MultipleNegativesRankingLoss, **arguments: Any) -> Any:
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        report_to="none",
        **{"save_strategy": "no", "learning_rate": 0.01, **arguments},
    )
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=PAIRS, loss=kind(model))
    return trainer.spec().rebuild(local_context(trainer.data.train_specs(1), folder))


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("kind", [MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss])
def test_three_steps_move_the_adapter_alone(adapted: Any, tmp_path: Path, kind: Any) -> None:
    before = weights(adapted)
    running = loop(adapted, tmp_path, kind)
    running.train()
    assert running.state.global_step == 3
    moved = {name for name, weight in weights(adapted).items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".mine." in name}


def test_a_run_continues_from_a_checkpoint_that_holds_the_adapter_alone(
    adapted: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    start = adapted.state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}
    loop(adapted, tmp_path, save_strategy="steps", save_steps=2).train()
    unbroken = weights(adapted)
    checkpoint = tmp_path / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert not (checkpoint / "model.safetensors").exists()
    adapted.load_state_dict(start)
    loop(adapted, tmp_path).train(resume_from_checkpoint=str(checkpoint))
    for name, weight in weights(adapted).items():
        torch.testing.assert_close(weight, unbroken[name], atol=1e-6, rtol=0)


def test_the_best_adapter_is_loaded_at_the_end(adapted: Any, tmp_path: Path) -> None:
    running = loop(
        adapted,
        tmp_path,
        save_strategy="steps",
        save_steps=1,
    )
    running.train()
    last = weights(adapted)
    running.state.best_model_checkpoint = "checkpoint-1"
    running._load_best_model()
    assert any(not torch.equal(weight, last[name]) for name, weight in weights(adapted).items())
    running.state.best_model_checkpoint = "checkpoint-3"
    running._load_best_model()
    for name, weight in weights(adapted).items():
        assert torch.equal(weight, last[name])


def test_recomputed_activations(adapted: Any, tmp_path: Path) -> None:
    before = weights(adapted)
    adapted.activation_checkpointing_enable()
    loop(adapted, tmp_path).train()
    moved = [name for name, weight in weights(adapted).items() if not torch.equal(weight, before[name])]
    assert moved
    assert all(".mine." in name for name in moved)


def test_a_trained_prompt_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    tiny_model[0].auto_model = peft.get_peft_model(tiny_model[0].auto_model, config)
    with pytest.raises(ValueError, match="Give the plain encoder an adapter instead"):
        loop(tiny_model, tmp_path)
