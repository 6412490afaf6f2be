"""What cannot be followed is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from ray_st import SentenceTransformerTrainingArguments
from ray_st.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss, MultipleNegativesRankingLoss
from ray_st.training.argument_checks import (
    check_arguments,
    check_in_place,
    check_precision,
    check_recomputation,
    make_folder,
    note_kept_activations,
    ready_twice,
)


def make(**given: Any) -> Any:
    return SentenceTransformerTrainingArguments("out", **given)


def test_arguments_that_a_run_cannot_follow() -> None:
    check_arguments(make(gradient_checkpointing=True))
    name = "enable_jit_checkpoint"
    with pytest.raises(ValueError, match=rf"^{name} cannot be used: .* Leave {name} out\.$"):
        check_arguments(make(**{name: True}))


@pytest.mark.parametrize("given", [{"ledger": True}, {"auto_find_batch_size": True}, {"ddp_backend": "gloo"}])
def test_arguments_that_have_no_effect_in_a_worker_of_ones_own(given: dict[str, Any]) -> None:
    check_in_place(make(), None, None)
    with pytest.raises(
        ValueError, match=rf"^{next(iter(given))} cannot be used inside a worker of Ray Train: "
    ):
        check_in_place(make(**given), None, None)


def test_configurations_of_a_run_that_is_running() -> None:
    for configs in ((object(), None), (None, object())):
        with pytest.raises(ValueError, match="_config has no effect inside a worker of Ray Train"):
            check_in_place(make(), *configs)


def test_a_folder_that_cannot_be_made(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"file/out cannot be written .* Choose another output_dir"):
        make_folder(str(tmp_path / "file" / "out"))


REENTERING = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}


@pytest.mark.parametrize("prefix", ["gradient", "activation"])
def test_activations_computed_again_inside_of_a_backward_pass(prefix: str, tiny_model: Any) -> None:
    args = make(**{name.replace("gradient", prefix): value for name, value in REENTERING.items()})
    cached = CachedMultipleNegativesRankingLoss(tiny_model)
    plain = MultipleNegativesRankingLoss(tiny_model)
    for loss in (cached, {"one": plain, "two": MatryoshkaLoss(tiny_model, cached, [16])}):
        with pytest.raises(
            ValueError, match=r"use_reentrant=True cannot do on 2 workers\. .* use_reentrant=False"
        ):
            check_recomputation(args, loss, 2)
        check_recomputation(args, loss, 1)
        check_recomputation(make(gradient_checkpointing=True), loss, 2)
        check_recomputation(make(gradient_checkpointing_kwargs={"use_reentrant": True}), loss, 2)
    check_recomputation(args, plain, 2)  # one run of the model, as long as the batch fits


def test_a_gradient_that_came_twice() -> None:
    error = RuntimeError("Expected to mark a variable ready only once. This error …")
    found = ready_twice(error, make(**REENTERING))
    assert "use_reentrant=False" in str(found)
    assert ready_twice(error, make()) is None
    assert ready_twice(RuntimeError("another"), make(**REENTERING)) is None


def test_activations_that_a_model_keeps_are_noted(tiny_model: Any, capsys: Any) -> None:
    note_kept_activations(make(gradient_checkpointing=True), tiny_model)
    tiny_model[0].auto_model.supports_gradient_checkpointing = False
    note_kept_activations(make(), tiny_model)
    assert not capsys.readouterr().out
    note_kept_activations(make(gradient_checkpointing=True), tiny_model)
    assert capsys.readouterr().out == (
        "warning: gradient checkpointing has no effect on BertModel, which cannot compute activations again\n"
    )


def test_float16_needs_gpus() -> None:
    check_precision(make(fp16=True), have_gpus=True)
    check_precision(make(bf16=True), have_gpus=False)
    with pytest.raises(ValueError, match=r"^fp16=True needs a GPU for each worker, .* Use bf16=True, "):
        check_precision(make(fp16=True), have_gpus=False)
