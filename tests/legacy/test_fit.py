"""The trainer behind fit, in process, and against the peer's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from torch.utils.data import DataLoader, SequentialSampler

from legacy_helpers import Recorded, Scores, examples
from ray_st import SentenceTransformer, losses
from ray_st.legacy.best_model import Best
from ray_st.legacy.fit import Evaluations, make_trainer, resumes
from ray_st.legacy.objectives import read_objectives
from ray_st.models.fit_methods import FitOptions
from ray_st.training.data.local_source import local_context


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs fit's trainer here, without Ray."""

    def fit(model: Any, objectives: Any, options: FitOptions, *_: Any) -> None:
        read = read_objectives(objectives)
        trainer = make_trainer(model, read, options)
        best = Best(model, options)
        if options.evaluator is not None:
            trainer.add_callback(
                Evaluations(len(read), options, lambda name, *call: getattr(best, name)(*call))
            )
        trainer.spec().rebuild(local_context(trainer.data.train_specs(1), tmp_path / "run")).train()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray_st.models.fit_methods.use", lambda name: fit)


def _options(model: Any, **given: Any) -> FitOptions:
    seen: list[FitOptions] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray_st.models.fit_methods.use", lambda name: lambda *call: seen.append(call[2]))
        model.fit([], **given)
    return seen[0]


def _curve(module: Any, model: Any) -> list[float]:
    """Losses of two objectives over two epochs of three rounds."""
    seen: list[float] = []
    model.fit(
        [
            (DataLoader(examples(12, 0.1), batch_size=4), Recorded(module.CosineSimilarityLoss(model), seen)),
            (DataLoader(examples(20, 0.2), batch_size=4), Recorded(module.CoSENTLoss(model), seen)),
        ],
        epochs=2,
        scheduler="WarmupCosine",
        warmup_steps=2,
        optimizer_params={"lr": 1e-3},
        weight_decay=0.1,
        show_progress_bar=False,
    )
    return seen


def test_the_peers_fit_gives_the_same_losses_and_weights(
    in_process: None, tiny_model: Any, tiny_folder: Path, peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers.sentence_transformer import losses as peer_losses

    class InOrder(torch.utils.data.BatchSampler):
        def set_epoch(self, epoch: int) -> None:
            """Always the same."""

    def in_order(self: Any, dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
        return InOrder(SequentialSampler(dataset), batch_size, drop_last)

    monkeypatch.setattr(peer.SentenceTransformerTrainer, "get_batch_sampler", in_order)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = peer.SentenceTransformer(str(tiny_folder), device="cpu")
        theirs = _curve(peer_losses, other)
    ours = _curve(losses, tiny_model)
    assert len(ours) == 12
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert abs(ours[0] - ours[-2]) > 1e-3  # it learnt something, so the comparison says something
    texts = ["good weather", "the man eats pasta"]
    np.testing.assert_allclose(tiny_model.encode(texts), other.encode(texts), atol=1e-4)


def test_one_objective_goes_as_in_the_plain_loop(
    in_process: None, tiny_model: Any, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[float]] = {"fit": [], "old_fit": []}
    options: dict[str, Any] = {
        "epochs": 2,
        "steps_per_epoch": 5,  # more than the loader has
        "warmup_steps": 2,
        "optimizer_params": {"lr": 1e-3},
        "show_progress_bar": False,
    }
    other = SentenceTransformer(tiny_folder, device="cpu")

    def objective(model: Any, name: str) -> Any:
        loss = Recorded(losses.CosineSimilarityLoss(model), seen[name])
        return [(DataLoader(examples(14), batch_size=4, drop_last=True), loss)]

    tiny_model.fit(objective(tiny_model, "fit"), **options)
    monkeypatch.undo()
    other.old_fit(objective(other, "old_fit"), **options)
    assert len(seen["fit"]) == 10
    assert seen["fit"] == pytest.approx(seen["old_fit"], abs=1e-4)


@pytest.mark.parametrize(
    ("rounds", "steps"), [(None, [(0.1, 3), (0.5, 4), (0.3, 6), (0.2, 8)]), (3, [(0.1, 3), (0.5, 6)])]
)
def test_scores_reach_the_callback_and_choose_the_model(
    rounds: int | None, steps: list[Any], in_process: None, tiny_model: Any, tmp_path: Path
) -> None:
    evaluator, calls = Scores([0.1, 0.5, 0.3, 0.2]), []
    tiny_model.fit(
        [(DataLoader(examples(8), batch_size=2), losses.CosineSimilarityLoss(tiny_model))],
        evaluator=evaluator,
        epochs=2,
        steps_per_epoch=rounds,
        evaluation_steps=3,
        warmup_steps=0,
        output_path="best",
        callback=lambda score, epoch, steps: calls.append((score, epoch, steps)),
        show_progress_bar=False,
    )
    assert [(score, step) for score, _, step in calls] == steps
    if rounds is None:
        assert [epoch for _, epoch, _ in calls] == [0.75, 1.0, 1.5, 2.0]
    assert evaluator.folders == [str(tmp_path / "best" / "eval")] * len(steps)
    best = SentenceTransformer(tmp_path / "best", device="cpu")
    assert torch.equal(torch.tensor(best.encode("good")), evaluator.embeddings[1])


def test_checkpoints_and_the_folder_of_a_run_without(
    in_process: None, tiny_model: Any, tmp_path: Path
) -> None:
    objectives = [(DataLoader(examples(8), batch_size=2), losses.CosineSimilarityLoss(tiny_model))]
    tiny_model.fit(objectives, checkpoint_path="steps", checkpoint_save_steps=3, show_progress_bar=False)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-4",
    ]
    assert (tmp_path / "steps").is_dir()
    assert not (tmp_path / "checkpoints").exists()
    (tmp_path / "checkpoints" / "model").mkdir(parents=True)
    (tmp_path / "checkpoints" / "model" / "of another run").touch()
    tiny_model.fit(objectives, show_progress_bar=False)
    assert (tmp_path / "checkpoints" / "model_1").is_dir()


def test_the_callback_stays_on_the_driver(tiny_model: Any, tmp_path: Path) -> None:
    read = read_objectives([(DataLoader(examples(2)), losses.CosineSimilarityLoss(tiny_model))])
    options = _options(tiny_model, checkpoint_path=str(tmp_path / "steps"), callback=lambda *call: None)
    trainer = make_trainer(tiny_model, read, options)
    assert trainer.options.callback is None


def test_on_a_worker_scores_are_named_by_the_evaluator_that_ran(tiny_model: Any, tmp_path: Path) -> None:
    read = read_objectives([(DataLoader(examples(2)), losses.CosineSimilarityLoss(tiny_model))])
    options = _options(tiny_model, checkpoint_path=str(tmp_path), evaluator=Scores([]))
    trainer = make_trainer(tiny_model, read, options)
    trainer.add_callback(Evaluations(1, options, print))
    sent = cloudpickle.loads(cloudpickle.dumps(trainer.spec())).options
    assert sent["callbacks"][0]._evaluator is sent["evaluator"]


def test_it_goes_on_only_where_there_is_a_checkpoint(
    in_process: None, tiny_model: Any, tmp_path: Path
) -> None:
    objectives = [(DataLoader(examples(4), batch_size=2), losses.CosineSimilarityLoss(tiny_model))]

    def wants(folder: str, resume: bool = True) -> bool:
        options = _options(tiny_model, checkpoint_path=folder, resume_from_checkpoint=resume)
        return resumes(make_trainer(tiny_model, read_objectives(objectives), options))

    tiny_model.fit(objectives, checkpoint_path="steps", show_progress_bar=False)
    assert wants("run")
    assert not wants("run", resume=False)
    assert not wants("elsewhere")
