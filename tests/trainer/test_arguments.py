"""Training arguments that change how a worker trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ray_st import SentenceTransformer, SentenceTransformerTrainingArguments
from ray_st.models import Pooling, StaticEmbedding
from ray_st.training.fitting import BatchTooLarge


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


def test_compilation(make: Any, sent: Any) -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch._dynamo.backends.registry.register_backend(backend, name="counted")
    expected = losses_with(make, sent)
    found = losses_with(make, sent, torch_compile=True, torch_compile_backend="counted")
    assert graphs
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

    with pytest.raises(BatchTooLarge, match="1 rows a worker are too many"):
        make(loss=Starving, arguments={"auto_find_batch_size": True}).train()


def test_what_a_run_cannot_follow_is_refused(make: Any, tmp_path: Path) -> None:
    for arguments, message in (
        ({"fsdp": True}, "fsdp: workers hold the whole model"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics: compute_metrics gets all rows"),
        ({"include_for_metrics": ["loss"]}, "include_for_metrics=.* gets embeddings and labels"),
    ):
        with pytest.raises(ValueError, match=message):
            make(arguments=arguments)
    with pytest.raises(ValueError, match="save and eval strategy to match"):
        SentenceTransformerTrainingArguments(
            str(tmp_path),
            load_best_model_at_end=True,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="epoch",
        )
