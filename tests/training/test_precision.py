"""Weights train in float32, whatever type they are stored in, and go back to that type."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import IntervalStrategy

from ray_st import InputExample, SentenceTransformer
from ray_st.losses import AdaptiveLayerLoss, CosineSimilarityLoss, MultipleNegativesRankingLoss, SoftmaxLoss
from ray_st.models import Dense, Pooling, Transformer
from ray_st.training.strategies.precision import note_on_types, widen
from ray_st.training.trainer_spec import train_task

from .test_adapters import PAIRS, loop

HALF = torch.bfloat16
TEXTS = ["the weather is good", "a man eats pasta"]


@pytest.fixture
def stored(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model's folder, its weights in bfloat16."""
    SentenceTransformer(tiny_folder, device="cpu").to(HALF).save(tmp_path / "stored")
    return tmp_path / "stored"


def opened(folder: Path) -> Any:
    return SentenceTransformer(folder, device="cpu")


def kinds(module: nn.Module) -> set[torch.dtype]:
    return {weight.dtype for weight in module.parameters()}


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- widening ----


def test_there_and_back(stored: Path) -> None:
    model = opened(stored)
    before, same_weights = values(model), list(model.parameters())
    types = widen(model, CosineSimilarityLoss(model))
    assert kinds(model) == {torch.float32}
    with torch.no_grad():
        next(model.parameters()).mul_(1 + 1e-5)
    wide = values(model)
    with types.for_a_while():
        assert same(values(model), before)  # the step is too small for eight bits
    assert same(values(model), wide)
    types.restore()
    types.restore()
    assert same(values(model), before)
    assert all(one is other for one, other in zip(model.parameters(), same_weights, strict=True))


def test_what_is_float32_is_left_alone(tiny_model: Any) -> None:
    before = [weight.data_ptr() for weight in tiny_model.parameters()]
    assert note_on_types(tiny_model, SoftmaxLoss(tiny_model, 32, 2)) == ""
    widen(tiny_model, SoftmaxLoss(tiny_model, 32, 2)).restore()
    assert [weight.data_ptr() for weight in tiny_model.parameters()] == before


def test_weights_of_a_loss(tiny_model: Any) -> None:
    loss = SoftmaxLoss(tiny_model, 32, 2)
    loss.classifier.to(torch.float16)
    types = widen(tiny_model, {"one": loss})
    assert kinds(loss) == {torch.float32}
    types.restore()
    assert kinds(loss.classifier) == {torch.float16}
    assert kinds(tiny_model) == {torch.float32}


@pytest.mark.parametrize("frozen", ["nothing", "layers", "all"])
def test_a_module_is_widened_as_a_whole_or_not_at_all(frozen: str, tiny_encoder: Path) -> None:
    model = SentenceTransformer(
        modules=[Transformer(tiny_encoder), Pooling(32), Dense(32, 8)], device="cpu"
    ).to(HALF)
    encoder = model[0].auto_model
    if frozen != "nothing":
        (encoder.embeddings if frozen == "layers" else encoder).requires_grad_(False)
    types = widen(model, CosineSimilarityLoss(model))
    assert kinds(model[0]) == ({HALF} if frozen == "all" else {torch.float32})
    assert kinds(model[2]) == {torch.float32}
    found = model(model.tokenize(TEXTS))["sentence_embedding"]
    found.sum().backward()
    assert found.dtype == torch.float32
    types.restore()
    assert kinds(model) == {HALF}
    assert model(model.tokenize(TEXTS))["token_embeddings"].dtype == HALF


@pytest.mark.parametrize("whole", [False, True])
def test_adapters_are_widened_and_what_they_adapt_is_not(whole: bool, stored: Path) -> None:
    peft = pytest.importorskip("peft")
    model = opened(stored)
    extra = {"modules_to_save": ["LayerNorm"]} if whole else {}
    model.add_adapter(peft.LoraConfig(target_modules=["query"], r=2, **extra))
    encoder = model[0].auto_model
    for weight in encoder.parameters():
        weight.data = weight.data.to(HALF)
    types = widen(model, CosineSimilarityLoss(model))
    wide = {weight.dtype for name, weight in encoder.named_parameters() if weight.requires_grad}
    left = {weight.dtype for name, weight in encoder.named_parameters() if not weight.requires_grad}
    assert (wide, left) == ({torch.float32}, {torch.float32 if whole else HALF})
    assert model(model.tokenize(TEXTS))["sentence_embedding"].dtype == torch.float32
    types.restore()
    assert kinds(model) == {HALF}


def test_what_a_run_says(stored: Path) -> None:
    model = opened(stored)
    note = note_on_types(model, CosineSimilarityLoss(model))
    number = sum(weight.numel() for weight in model.parameters())
    assert (
        f"{number:,} values are stored in bfloat16, trained and checkpointed in float32, and saved in bfloat16 again"
        in (note)
    )
    assert note_on_types(model.float(), CosineSimilarityLoss(model)) == ""


# ---- training ----

SMALL = {"learning_rate": 1e-6, "weight_decay": 0.0}


@pytest.mark.slow
def test_training_is_that_of_the_same_weights_in_float32(stored: Path, tmp_path: Path) -> None:
    found = []
    for model in (opened(stored), opened(stored).float()):
        before = values(model.float() if model.dtype == torch.float32 else model)
        loop(model, tmp_path / "out", **SMALL).train()
        moved = sum(not torch.equal(weight, before[name].float()) for name, weight in values(model).items())
        assert moved > 0.9 * len(before)
        found.append(values(model))
    assert same(*found)


@pytest.mark.slow
def test_checkpoints_are_float32_and_resumed_exactly_and_results_are_of_the_stored_type(
    stored: Path, tmp_path: Path
) -> None:
    saving = {**SMALL, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-3}
    running = loop(opened(stored), tmp_path / "out", **saving)
    train_task(running, None)
    assert {tensor.dtype for tensor in running.model.state_dict().values() if tensor.is_floating_point()} == {
        HALF
    }
    checkpoints = [load_file(tmp_path / f"out/checkpoint-{step}/model.safetensors") for step in (1, 2, 3)]
    assert {tensor.dtype for checkpoint in checkpoints for tensor in checkpoint.values()} == {torch.float32}
    again = loop(opened(stored), tmp_path / "out2", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-2"))
    resumed = load_file(tmp_path / "out2/checkpoint-3/model.safetensors")
    assert same(checkpoints[2], resumed)
    again.save_model(str(tmp_path / "saved"))  # by a callback, say
    assert kinds(again.model) == {torch.float32}
    for folder in (tmp_path / "saved",):
        assert kinds(opened(folder)) == {HALF}
        assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
        expected = {name: tensor.to(HALF) for name, tensor in checkpoints[2].items()}
        assert same(load_file(folder / "model.safetensors"), expected)


def test_the_best_model_is_the_checkpoints(stored: Path, tmp_path: Path) -> None:
    running = loop(opened(stored), tmp_path / "out", save_strategy="steps", save_steps=1, learning_rate=1e-3)
    running.train()
    running.state.best_model_checkpoint = "checkpoint-1"
    running._load_best_model()
    first = load_file(tmp_path / "out/checkpoint-1/model.safetensors")
    assert same({f"0.auto_model.{name}": tensor for name, tensor in first.items()}, values(running.model))


def test_a_type_asked_for_by_keyword_is_a_stored_type(tiny_folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(tiny_folder, device="cpu", model_kwargs={"torch_dtype": torch.float16})
    running = loop(model, tmp_path, MultipleNegativesRankingLoss, **SMALL)
    train_task(running, None)
    assert kinds(model) == {torch.float16}
    running.train()
    assert kinds(model) == {torch.float32}
    running.train()  # begins from what the first one would have saved
    running.restore_types()
    assert kinds(model) == {torch.float16}


def test_the_loop_of_older_releases(stored: Path, tmp_path: Path, capsys: Any) -> None:
    model = opened(stored)
    seen: list[set[torch.dtype]] = []
    examples = [InputExample(texts=[one, two], label=0.5) for one, two in zip(*PAIRS.values(), strict=True)]
    loader: Any = torch.utils.data.DataLoader(examples, batch_size=4)

    def evaluator(given: Any, **options: Any) -> float:
        seen.append(kinds(given))
        return 1.0

    objectives = [(loader, CosineSimilarityLoss(model))]
    model.old_fit(
        objectives, evaluator=evaluator, output_path=str(tmp_path / "best"), show_progress_bar=False
    )
    assert seen == [{torch.float32}]
    assert kinds(model) == kinds(opened(tmp_path / "best")) == {HALF}
    assert "stored in bfloat16, trained and checkpointed in float32" in capsys.readouterr().out


# ---- mixed precision ----


@pytest.mark.usefixtures("fresh_accelerator")
def test_mixed_precision_is_that_of_training_and_ends_with_it(stored: Path, tmp_path: Path) -> None:
    model = opened(stored).float()
    before = model.encode(TEXTS)
    computed: list[torch.dtype] = []
    layer = model[0].auto_model.encoder.layer[0].attention.self.query
    layer.register_forward_hook(lambda module, inputs, output: computed.append(output.dtype))
    running = loop(model, tmp_path, bf16=True, use_cpu=True, learning_rate=0.0)
    for _ in range(2):
        running.train()
        assert set(computed) == {HALF}
        computed.clear()
        assert (model.encode(TEXTS) == before).all()
        assert set(computed) == {torch.float32}
        computed.clear()
        pickle.dumps(model.state_dict())
        assert "forward" not in vars(model)


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_loss_that_calls_the_models_modules_computes_in_mixed_precision(
    tiny_model: Any, tmp_path: Path
) -> None:
    computed: list[torch.dtype] = []
    layer = tiny_model[0].auto_model.encoder.layer[0].attention.self.query
    layer.register_forward_hook(lambda module, inputs, output: computed.append(output.dtype))
    running = loop(tiny_model, tmp_path, bf16=True, use_cpu=True)
    running.loss = AdaptiveLayerLoss(tiny_model, MultipleNegativesRankingLoss(tiny_model))
    running.train()
    assert set(computed) == {HALF}
    assert not any("forward" in vars(part) for part in tiny_model.modules())


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("bf16", [False, True])
def test_an_evaluation_outside_of_training_is_that_within(
    bf16: bool, tiny_model: Any, tmp_path: Path
) -> None:
    def evaluator(model: Any, **options: Any) -> dict[str, float]:
        return {"sum": float(abs(model.encode(TEXTS)).sum())}

    running = loop(tiny_model, tmp_path, bf16=bf16, use_cpu=True)
    running.evaluator = evaluator
    running.context = replace(running.worker, evals={"": running.worker.train})
    running.args.eval_strategy = IntervalStrategy.EPOCH
    running.train()
    within = next(entry for entry in running.state.log_history if "eval_loss" in entry)
    outside = running.evaluate()
    for name in ("eval_loss", "eval_sum"):
        assert outside[name] == within[name]


def test_a_run_says_what_stays_as_it_is_stored(stored: Path) -> None:
    model = opened(stored)
    frozen = model[0].auto_model.requires_grad_(False)
    model.append(Dense(32, 8).to(HALF))
    note = note_on_types(model, CosineSimilarityLoss(model))
    number = sum(weight.numel() for weight in frozen.parameters())
    assert note.startswith("weights: 264 values are stored in bfloat16, trained and checkpointed in float32")
    assert note.endswith(f"; {number:,} values that are not trained stay in bfloat16")
    model[2].float()
    assert note_on_types(model, CosineSimilarityLoss(model)) == (
        f"weights: {number:,} values that are not trained stay in bfloat16"
    )
