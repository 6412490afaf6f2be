"""Our loop and the peer's trainer, on the same batches: the same losses, figures, checkpoints and weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback

from our_batches import OurBatches
from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.models import Pooling, Router, Transformer
from ray_st.training.data.local_source import local_context

ROWS, BATCH, STEPS = 100, 10, 20


def _rows(columns: int, scores: bool, seed: int = 1) -> Dataset:
    words = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text", "word"]
    rng = torch.Generator().manual_seed(seed)

    def text(row: int) -> str:
        length = int(torch.randint(2, 9, (1,), generator=rng))
        picked = torch.randint(len(words), (length,), generator=rng)
        return f"{row} " + " ".join(words[int(i)] for i in picked)

    data: dict[str, Any] = {f"text_{c}": [text(row) for row in range(ROWS)] for c in range(columns)}
    if scores:
        data["score"] = torch.rand(ROWS, generator=rng).tolist()
    return Dataset.from_dict(data)


CASES = {
    "MultipleNegativesRankingLoss": (3, False),
    "CoSENTLoss": (2, True),
    "CosineSimilarityLoss": (2, True),
    "TripletLoss": (3, False),
}


def _options(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-3,
        "warmup_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def _same_batches() -> Any:
    from sentence_transformers import SentenceTransformerTrainer as PeerTrainer

    class SameBatches(PeerTrainer):
        def get_batch_sampler(self, dataset: Any, batch_size: int, *args: Any, **kwargs: Any) -> Any:
            if len(dataset) == ROWS:  # what is trained on
                return OurBatches(ROWS, batch_size)
            return torch.utils.data.BatchSampler(range(len(dataset)), batch_size, drop_last=False)

    return SameBatches


def _our_losses(folder: Path, model: Any, rows: Dataset, name: str, **more: Any) -> list[float]:
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**_options(folder) | more),
        train_dataset=rows,
        loss=getattr(losses, name)(model),
    )
    loop = trainer.spec().rebuild(local_context(trainer.data.train_specs(1), folder))
    loop.train()
    return [entry["loss"] for entry in loop.state.log_history if "loss" in entry]


def _peer_losses(folder: Path, model_folder: Path, rows: Dataset, name: str, **more: Any) -> list[float]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import SentenceTransformerTrainingArguments as PeerArguments
    from sentence_transformers import losses as peer_losses

    model = SentenceTransformer(str(model_folder), device="cpu")
    trainer = _same_batches()(
        model=model,
        args=PeerArguments(**_options(folder) | more),
        train_dataset=rows,
        loss=getattr(peer_losses, name)(model),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_give_the_peers_losses(
    name: str, tmp_path: Path, tiny_model: Any, tiny_folder: Path, peer: Any
) -> None:
    rows = _rows(*CASES[name])
    ours = _our_losses(tmp_path / "ours", tiny_model, rows, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = _peer_losses(tmp_path / "peer", tiny_folder, rows, name)
    assert len(ours) == STEPS
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[0] != pytest.approx(
        ours[-1], abs=1e-2
    )  # it learnt something, so the comparison says something


def test_a_router_gives_the_peers_losses(tmp_path: Path, tiny_encoder: Path, peer: Any) -> None:
    ways = [[Transformer(tiny_encoder), Pooling(32)] for _ in range(2)]
    with torch.no_grad():
        for weight in ways[0][0].parameters():
            weight.mul_(1.1)  # else it is all the same which way a text goes
    model = SentenceTransformer(modules=[Router.for_query_document(*ways)], device="cpu")
    model.save(tmp_path / "model")
    rows, name = _rows(3, False), "MultipleNegativesRankingLoss"
    mapping = {"text_0": "query", "text_1": "document", "text_2": "document"}
    more = {"max_steps": 5, "router_mapping": mapping}
    ours = _our_losses(tmp_path / "ours", model, rows, name, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = _peer_losses(tmp_path / "peer", tmp_path / "model", rows, name, **more)
    assert ours == pytest.approx(theirs, abs=1e-4)


WHOLE = {
    "max_steps": 50,
    "per_device_train_batch_size": 5,
    "per_device_eval_batch_size": 10,
    "learning_rate": 2e-3,
    "eval_strategy": "steps",
    "eval_steps": 5,
    "save_strategy": "steps",
    "save_steps": 5,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_dev_pearson_cosine",
    "greater_is_better": True,
}


class StopAt(TrainerCallback):
    """Ends training at a step, after its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def _trained(make: Any, resume: str) -> Any:
    """What a run is like that was stopped at step 25 and resumed."""
    first = make()
    first.add_callback(StopAt(25))
    first.train()
    second = make()
    second.train(resume_from_checkpoint=resume)
    return second


def _dev(evaluation: Any, rows: Dataset) -> Any:
    return evaluation.EmbeddingSimilarityEvaluator(
        list(rows["text_0"]), list(rows["text_1"]), list(rows["score"]), name="dev", main_similarity="cosine"
    )


def _our_run(folder: Path, model_folder: Path, rows: Dataset, dev: Dataset) -> Any:
    from ray_st import evaluation

    def make() -> Any:
        model = SentenceTransformer(model_folder, device="cpu")
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(**{**_options(folder), **WHOLE}),
            train_dataset=rows,
            eval_dataset=dev,
            loss=losses.CoSENTLoss(model),
            evaluator=_dev(evaluation, dev),
        )
        return trainer.spec().rebuild(local_context(trainer.data.train_specs(1), folder))

    return _trained(make, str(folder / "checkpoint-25"))


def _peer_run(folder: Path, model_folder: Path, rows: Dataset, dev: Dataset) -> Any:
    from sentence_transformers import SentenceTransformer, evaluation
    from sentence_transformers import SentenceTransformerTrainingArguments as PeerArguments
    from sentence_transformers import losses as peer_losses

    def make() -> Any:
        model = SentenceTransformer(str(model_folder), device="cpu")
        return _same_batches()(
            model=model,
            args=PeerArguments(**{**_options(folder), **WHOLE}),
            train_dataset=rows,
            eval_dataset=dev,
            loss=peer_losses.CoSENTLoss(model),
            evaluator=_dev(evaluation, dev),
        )

    return _trained(make, str(folder / "checkpoint-25"))


@pytest.mark.slow
def test_a_whole_run_is_the_peers(tmp_path: Path, tiny_folder: Path, peer: Any) -> None:
    rows, dev = _rows(2, True), _rows(2, True, seed=2).select(range(30))
    ours = _our_run(tmp_path / "ours", tiny_folder, rows, dev)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = _peer_run(tmp_path / "peer", tiny_folder, rows, dev)
    for name, steps, close in (
        ("loss", 50, 1e-4),
        ("eval_loss", 10, 1e-4),
        ("eval_dev_pearson_cosine", 10, 1e-3),
    ):
        found, expected = (
            [entry[name] for entry in run.state.log_history if name in entry] for run in (ours, theirs)
        )
        assert len(found) == steps
        assert found == pytest.approx(expected, abs=close), name
    assert ours.state.best_global_step == theirs.state.best_global_step
    assert ours.state.best_global_step not in (5, 50)  # else nothing was chosen
    assert Path(ours.state.best_model_checkpoint).name == Path(theirs.state.best_model_checkpoint).name
    for name in ("", "checkpoint-50"):
        found, expected = (
            _weights(run, tmp_path / kind, name) for run, kind in ((ours, "ours"), (theirs, "peer"))
        )
        assert set(found) == {
            key for key in expected if not key.startswith("pooler")
        }  # which the peer keeps unused
        assert max(float((found[key] - expected[key]).abs().max()) for key in found) < 1e-4


def _weights(run: Any, folder: Path, checkpoint: str) -> dict[str, torch.Tensor]:
    """The weights of the encoder at the end, or in a checkpoint."""
    if not checkpoint:
        return dict(run.model[0].auto_model.state_dict())
    return load_file(folder / checkpoint / "model.safetensors")


ONCE = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 10}


def _metrics(entry: Any) -> list[str]:
    return sorted(key for key in entry if not key.endswith(("_runtime", "_per_second", "epoch", "step")))


def _reported(trainer: Any) -> list[list[str]]:
    """The metrics of each entry of the log, and those of an evaluation outside of training."""
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if any(key.startswith("eval") for key in entry)]
    return [*map(_metrics, logged), _metrics(trainer.evaluate())]


@pytest.mark.parametrize("names", [[], ["dev"], ["one"], ["one", "two"], ["one", "two", "three"]], ids=str)
def test_metrics_have_the_peers_names(
    names: list[str], tmp_path: Path, tiny_model: Any, tiny_folder: Path, peer: Any, rebuilt: Any
) -> None:
    from ray_st import evaluation

    rows = _rows(2, True).select(range(20))
    data = dict.fromkeys(names, rows) if names else rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer as PeerModel
        from sentence_transformers import SentenceTransformerTrainer as PeerTrainer
        from sentence_transformers import SentenceTransformerTrainingArguments as PeerArguments
        from sentence_transformers import losses as peer_losses
        from sentence_transformers.sentence_transformer import evaluation as peer_evaluation

        model = PeerModel(str(tiny_folder), device="cpu")
        theirs = _reported(
            PeerTrainer(
                model=model,
                args=PeerArguments(**{**_options(tmp_path / "peer"), **ONCE}),
                train_dataset=rows,
                eval_dataset=data,
                loss=peer_losses.CoSENTLoss(model),
                evaluator=_dev(peer_evaluation, rows),
            )
        )
    ours = SentenceTransformerTrainer(
        model=tiny_model,
        args=SentenceTransformerTrainingArguments(**{**_options(tmp_path / "ours"), **ONCE}),
        train_dataset=rows,
        eval_dataset=data,
        loss=losses.CoSENTLoss(tiny_model),
        evaluator=_dev(evaluation, rows),
    )
    assert _reported(rebuilt(ours, tmp_path / "ours")) == theirs
    said = ours.metric_names()
    assert said.complete
    in_training = {name for entry in theirs[:-1] for name in entry}
    assert {name for name in said.known if not name.endswith(("_runtime", "_per_second"))} == in_training


@pytest.fixture
def rebuilt() -> Any:
    """Makes a worker's trainer of a driver's, in this process."""

    def rebuilt(trainer: Any, folder: Path) -> Any:
        return trainer.spec().rebuild(local_context(trainer.data.train_specs(1), folder))

    return rebuilt
