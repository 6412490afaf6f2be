"""What cannot be followed is refused by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ray_st import SentenceTransformerTrainingArguments
from ray_st.losses import (
    CachedMultipleNegativesRankingLoss,
    CosineSimilarityLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from ray_st.training.argument_checks import (
    check_arguments,
    check_elastic,
    check_in_place,
    check_precision,
    check_recomputation,
    check_trials,
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


def scaling(num_workers: Any) -> Any:
    return SimpleNamespace(num_workers=num_workers, use_gpu=False)


def test_batches_that_would_change_with_the_number_of_workers(tiny_model: Any) -> None:
    loss = CosineSimilarityLoss(tiny_model)
    with pytest.raises(
        ValueError, match=r"^num_workers=\(1, 4\) needs global_train_batch_size: .* one number\."
    ):
        check_elastic(make(), loss, scaling((1, 4)))
    for fixed in (None, scaling(4), scaling((4, 4)), scaling(0)):
        check_elastic(make(), loss, fixed)
    check_elastic(make(global_train_batch_size=8), loss, scaling((1, 4)))


def test_losses_that_would_change_with_the_number_of_workers(tiny_model: Any) -> None:
    args, own = make(global_train_batch_size=8), MultipleNegativesRankingLoss(tiny_model)
    gathered = MultipleNegativesRankingLoss(tiny_model, gather_across_devices=True)
    for loss in (own, MatryoshkaLoss(tiny_model, own, [16]), {"one": gathered, "two": own}):
        with pytest.raises(
            ValueError, match=r"MultipleNegativesRankingLoss\(…, gather_across_devices=True\)"
        ):
            check_elastic(args, loss, scaling((1, 4)))
        check_elastic(args, loss, scaling(4))
    check_elastic(args, MatryoshkaLoss(tiny_model, gathered, [16]), scaling((1, 4)))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"save_only_model": True}, "save_only_model"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "use_reentrant",
        ),
    ],
)
def test_what_a_resize_cannot_go_on_from(given: dict[str, Any], name: str, tiny_model: Any) -> None:
    args, loss = make(global_train_batch_size=8, **given), CosineSimilarityLoss(tiny_model)
    check_elastic(args, loss, scaling(4))
    with pytest.raises(ValueError, match=rf"{name}.* cannot be used with num_workers=\(1, 4\)"):
        check_elastic(args, loss, scaling((1, 4)))


def test_trials_have_a_fixed_number_of_workers() -> None:
    for fixed in (None, scaling(4), scaling((4, 4))):
        check_trials(fixed)
    with pytest.raises(
        ValueError, match=r"num_workers=\(1, 4\): how many run at once .* num_workers=1; train"
    ):
        check_trials(scaling((1, 4)))
    with pytest.raises(ValueError, match=r"ScalingConfig\(num_workers=0\) wants none"):
        check_trials(scaling(0))
