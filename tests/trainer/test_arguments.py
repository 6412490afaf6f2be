"""Training arguments that change how a worker trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import ScalingConfig

from ray_st import SentenceTransformer, SentenceTransformerTrainingArguments
from ray_st.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
from ray_st.models import Pooling, StaticEmbedding
from ray_st.training.strategies.batch_size_finder import BatchTooLarge

from .conftest import ROWS


def losses_with(make: Any, sent: Any, **arguments: Any) -> list[float]:
    running = sent(make(arguments=arguments))
    running.train()
    return [entry["loss"] for entry in running.state.log_history if "loss" in entry]


def test_checkpointed_gradients_are_the_same(make: Any, sent: Any) -> None:
    expected = losses_with(make, sent)
    assert losses_with(make, sent, gradient_checkpointing=True) == pytest.approx(expected, abs=1e-6)


def test_bf16(make: Any, sent: Any, fresh_accelerator: None) -> None:
    running = sent(make(arguments={"bf16": True}))
    kinds = set()
    running.loss.compute = lambda columns, compute=running.loss.compute: kinds.add("seen") or compute(columns)
    encoder = running.model[0].auto_model.encoder.layer[0].output.dense
    encoder.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    running.train()
    assert kinds == {"seen", torch.bfloat16}
    assert all(weight.dtype == torch.float32 for weight in running.model.parameters())


def test_what_needs_a_gpu_is_refused_on_a_worker_without(
    make: Any, sent: Any, fresh_accelerator: None
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="fp16"):
        sent(make(arguments={"fp16": True}))
    with pytest.raises(ValueError, match="tf32"):
        sent(make(arguments={"tf32": True}))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch's own compiler
def test_compilation(make: Any, sent: Any) -> None:
    expected = losses_with(make, sent)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = losses_with(make, sent, torch_compile_backend="eager")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert found == pytest.approx(expected, abs=1e-4)


def test_noisy_embeddings(make: Any, sent: Any, tiny_folder: Path) -> None:
    running = sent(make(arguments={"neftune_noise_alpha": 5.0}))
    running.train()
    noisy = [entry["loss"] for entry in running.state.log_history if "loss" in entry]
    assert noisy != pytest.approx(losses_with(make, sent), abs=1e-3)
    assert not running.model[0].auto_model.get_input_embeddings()._forward_hooks
    words = StaticEmbedding(running.model.tokenizer, embedding_dim=8)
    static = SentenceTransformer(modules=[words], device="cpu")
    with pytest.raises(
        ValueError, match=r"neftune_noise_alpha=5.0 needs an encoder .* StaticEmbedding has none"
    ):
        sent(make(model=static, arguments={"neftune_noise_alpha": 5.0})).train()


def dropped_out(folder: Path) -> SentenceTransformer:
    from ray_st.models import Dropout

    model = SentenceTransformer(folder, device="cpu")
    return SentenceTransformer(modules=[model[0], Pooling(32), Dropout(0.5)], device="cpu")


@pytest.mark.slow
def test_a_seed_fixes_order_and_dropout(make: Any, sent: Any, tiny_folder: Path) -> None:
    def losses(**arguments: Any) -> list[float]:
        running = sent(make(model=dropped_out(tiny_folder), arguments=arguments))
        running.train()
        return [entry["loss"] for entry in running.state.log_history if "loss" in entry]

    expected = losses(seed=3)
    assert losses(seed=3) == expected
    assert losses(seed=4) != expected
    assert losses(seed=3, data_seed=5) != expected
    try:
        assert losses(seed=3, full_determinism=True) == expected
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_the_batch_size_is_halved_until_it_fits(
    make: Any, on_cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from ray_st.losses import MultipleNegativesRankingLoss

    class Hungry(MultipleNegativesRankingLoss):
        def forward(self, features: Any, labels: Any) -> Any:
            if len(features[0]["input_ids"]) > 2:
                raise RuntimeError("CUDA out of memory.")
            return super().forward(features, labels)

    trainer = make(loss=Hungry, arguments={"auto_find_batch_size": True, "per_device_train_batch_size": 8})
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.state.train_batch_size == 2
    assert trainer.args.per_device_train_batch_size == 8
    assert "trying 4 rows" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="out of memory"):
        make(loss=Hungry).train()
    fixed = {"auto_find_batch_size": True, "global_train_batch_size": 4}
    with pytest.raises(ValueError, match="global_train_batch_size fixes it"):
        make(arguments=fixed).train()

    class Starving(MultipleNegativesRankingLoss):
        def forward(self, features: Any, labels: Any) -> Any:
            raise RuntimeError("CUDA out of memory.")

    with pytest.raises(BatchTooLarge, match="2 rows a worker are too many"):
        make(loss=Starving, arguments={"auto_find_batch_size": True}).train()


@pytest.mark.parametrize(("counted", "shown"), [("all", "padded"), ("non_padding", "real")])
def test_tokens_are_counted(make: Any, sent: Any, tiny_model: Any, counted: str, shown: str) -> None:
    running = sent(make(arguments={"include_num_input_tokens_seen": counted}))
    tokens = {"padded": 0, "real": 0}
    for batch in running.get_train_dataloader():
        for column in ("a", "b"):
            tokens["padded"] += batch[f"{column}_input_ids"].numel()
            tokens["real"] += int(batch[f"{column}_attention_mask"].sum())
    running.train()
    assert running.state.num_input_tokens_seen == tokens[shown]
    assert tokens["padded"] > tokens["real"]
    logged = [entry for entry in running.state.log_history if "loss" in entry]
    assert logged[-1]["num_input_tokens_seen"] == tokens[shown]
    assert logged[-1]["train_tokens_per_second"] > 0


def test_memory_is_given_back_every_few_steps(make: Any, sent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared = []
    monkeypatch.setattr("ray_st.training.loop.hf_loop.clear_device_cache", lambda: cleared.append(len(steps)))
    steps: list[int] = []
    running = sent(make(arguments={"torch_empty_cache_steps": 2, "max_steps": 5, "num_train_epochs": 2}))
    step = running.training_step
    running.training_step = lambda *args: (step(*args), steps.append(1))[0]
    running.train()
    assert cleared == [0, 2, 4]


class TwoKinds(torch.optim.SGD):
    """Notes what it is used for."""

    modes: tuple[str, ...] = ()

    def train(self) -> None:
        self.modes = (*self.modes, "train")

    def eval(self) -> None:
        self.modes = (*self.modes, "eval")


def test_schedule_free_optimizers_know_what_they_are_used_for(make: Any, sent: Any) -> None:
    kind = (TwoKinds, {"lr": 0.1})
    arguments = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 3}
    running = sent(make(optimizer_cls_and_kwargs=kind, eval_dataset=ROWS, arguments=arguments))
    running.train()
    assert running.optimizer.optimizer.modes == ("train", "train", "eval", "train", "eval")


def test_smoothed_labels_are_without_effect(make: Any, sent: Any) -> None:
    expected = losses_with(make, sent)
    with pytest.warns(UserWarning, match=r"label_smoothing_factor=0.1 has no effect"):
        assert losses_with(make, sent, label_smoothing_factor=0.1) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"enable_jit_checkpoint": True},
            "enable_jit_checkpoint cannot be used: .* Leave enable_jit_checkpoint out",
        ),
    ],
)
def test_what_a_run_cannot_follow_is_refused(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(arguments=arguments)


def test_arguments_are_checked_again_before_a_run(make: Any) -> None:
    trainer = make(eval_dataset=ROWS)
    trainer.args.learning_rate_mapping = {"(": 1.0}
    for run in (trainer.train, trainer.evaluate):
        with pytest.raises(ValueError, match="is not a valid regular expression"):
            run()
    trainer.args.learning_rate_mapping = None
    trainer.args.num_train_epochs = "three"
    with pytest.raises(ValueError, match="num_train_epochs must be a number; got 'three'"):
        trainer.train()


def test_strategies_that_disagree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save and eval strategy to match"):
        SentenceTransformerTrainingArguments(
            str(tmp_path),
            load_best_model_at_end=True,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="epoch",
        )


@pytest.mark.parametrize(
    ("arguments", "loss", "message"),
    [
        ({}, CosineSimilarityLoss, "needs global_train_batch_size"),
        ({"global_train_batch_size": 4}, MultipleNegativesRankingLoss, "gather_across_devices=True"),
        ({"global_train_batch_size": 4, "save_only_model": True}, CosineSimilarityLoss, "save_only_model"),
    ],
)
def test_a_number_of_workers_that_may_change_is_refused_when_the_trainer_is_made(
    make: Any, arguments: dict[str, Any], loss: Any, message: str
) -> None:
    rows = {"a": ["one", "two"] * 4, "b": ["three", "four"] * 4}
    labels = {"label": [0.0, 1.0] * 4} if loss is CosineSimilarityLoss else {}
    with pytest.raises(ValueError, match=rf"num_workers=\(1, 4\).*{message}|{message}.*num_workers=\(1, 4\)"):
        make(
            arguments=arguments,
            loss=loss,
            train_dataset={**rows, **labels},
            scaling_config=ScalingConfig(num_workers=(1, 4)),
        )


def test_batches_are_checked_for_the_greatest_number_of_workers(make: Any) -> None:
    trainer = make(
        arguments={"global_train_batch_size": 4},
        loss=lambda model: MultipleNegativesRankingLoss(model, gather_across_devices=True),
        scaling_config=ScalingConfig(num_workers=(1, 4)),
    )
    assert trainer.workers_asked == 4
    with pytest.raises(ValueError, match=r"A search cannot have trials with num_workers=\(1, 4\)"):
        trainer.hyperparameter_search(n_trials=1)
