"""Types of weights, gradients and states in training on a device, and scaled losses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.loop.finite_check import LossError

from .conftest import GPU

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
ON_ANY = pytest.mark.parametrize("device", [GPU, "pretended", "cpu"], indirect=True)


@pytest.fixture
def stored(tiny: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A model from a folder whose weights have the type of the parameter."""
    from ray_st import SentenceTransformer

    tiny("cpu").to(request.param).save(tmp_path / "stored")
    return SentenceTransformer(tmp_path / "stored", device="cpu")


class Types(TrainerCallback):
    """Notes the types of weights, gradients and the optimizer's states in each step."""

    def __init__(self) -> None:
        self.seen: set[torch.dtype] = set()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for weight in kwargs["model"].parameters():
            self.seen |= {weight.dtype, weight.dtype if weight.grad is None else weight.grad.dtype}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        states = kwargs["optimizer"].state_dict()["state"].values()
        self.seen |= {
            value.dtype for one in states for value in one.values() if isinstance(value, torch.Tensor)
        }


@ON_ANY
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], indirect=True)
def test_a_folder_of_any_type_trains_in_float32(
    precision: str, stored: Any, device: torch.device, loop: Any, tmp_path: Path
) -> None:
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("scaled losses are for GPUs")
    kind, types, computed = stored.dtype, Types(), set[torch.dtype]()
    layer = stored[0].auto_model.encoder.layer[0].attention.self.query
    layer.register_forward_hook(lambda module, inputs, output: computed.add(output.dtype))
    options = {} if precision == "float32" else {precision: True}
    running = loop(stored, tmp_path, callbacks=[types], use_cpu=device.type == "cpu", **options)
    running.train()
    assert types.seen == {torch.float32}
    if type(next(stored.parameters())).__name__ != "DeviceTensor":  # which autocast does not know
        assert computed == {HALF.get(precision, torch.float32)}
    assert running.state.log_history[0]["loss"] == pytest.approx(1.39, abs=0.1)
    running.restore_types()
    assert stored.dtype == kind


@pytest.mark.parametrize("stored", [torch.float16], indirect=True)
def test_weights_of_a_loss_are_trained_in_float32(
    stored: Any, device: torch.device, loop: Any, tmp_path: Path
) -> None:
    types = Types()

    def loss(model: Any) -> nn.Module:
        return _OfPairs(model).half()

    running = loop(stored, tmp_path, loss=loss, callbacks=[types], fp16=True)
    running.train()
    assert types.seen == {torch.float32}
    running.restore_types()
    assert running.loss.head.weight.dtype == torch.float16


class _OfPairs(MultipleNegativesRankingLoss):
    """A ranking loss with weights of its own."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.head = nn.Linear(32, 32, bias=False)

    def embed(self, sentence_features: Any) -> Any:
        return [self.head(rows.to(self.head.weight.dtype)) for rows in super().embed(sentence_features)]


class Spoils(TrainerCallback):
    """Makes a gradient infinite, or the whole of it NaN, in one step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value, self.weights = step, value, list[torch.Tensor]()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weight = next(kwargs["model"].parameters())
        self.weights.append(weight.detach().clone())
        if state.global_step + 1 == self.step:
            self.hook = weight.register_hook(lambda gradient: gradient * self.value)
        elif state.global_step == self.step:
            self.hook.remove()


def test_a_step_that_overflows_is_skipped_and_the_scale_halved(
    device: torch.device, tiny: Any, loop: Any, tmp_path: Path
) -> None:
    spoils = Spoils(2, float("inf"))
    saving = {"save_strategy": "steps", "save_steps": 1}
    running = loop(tiny("cpu"), tmp_path, callbacks=[spoils], fp16=True, max_steps=4, **saving)
    start = running.accelerator.scaler.get_scale()
    running.train()
    _, second, third, fourth = spoils.weights
    assert torch.equal(second, third)
    assert not torch.equal(third, fourth)
    assert running.accelerator.scaler.get_scale() == start / 2
    again = loop(tiny("cpu"), tmp_path / "again", fp16=True, max_steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.accelerator.scaler.get_scale() == start / 2


@ON_ANY
def test_without_scaled_losses_it_ends_the_run(
    device: torch.device, tiny: Any, loop: Any, tmp_path: Path
) -> None:
    spoils = Spoils(2, float("nan"))
    running = loop(tiny("cpu"), tmp_path, callbacks=[spoils], bf16=True, use_cpu=device.type == "cpu")
    with pytest.raises(LossError, match="The gradient of step 2 is not a number"):
        running.train()
    weight = next(running.model.parameters())
    assert torch.equal(weight.detach(), spoils.weights[1])


@ON_ANY
@pytest.mark.parametrize("stored", [torch.bfloat16], indirect=True)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_of_a_bfloat16_base(stored: Any, device: torch.device, loop: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    stored.add_adapter(peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4))
    for name, weight in stored.named_parameters():
        weight.data = weight.data.bfloat16() if "lora" in name else weight.data
    running = loop(stored, tmp_path, bf16=True, use_cpu=device.type == "cpu")
    running.train()
    types = {(weight.requires_grad, weight.dtype) for weight in stored.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}
    assert {weight.device for weight in stored.parameters()} == {device}


@pytest.fixture
def tf32_as_before() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("device", [GPU], indirect=True)
@pytest.mark.usefixtures("tf32_as_before")
def test_tf32(device: torch.device, tiny: Any, loop: Any, tmp_path: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    rows = torch.randn(512, 512, device=device)
    exact = rows @ rows
    running = loop(tiny("cpu"), tmp_path, tf32=True)
    running.train()
    assert torch.backends.cuda.matmul.allow_tf32
    error = (rows @ rows - exact).abs().max() / exact.abs().max()
    assert 1e-6 < error < 1e-2
