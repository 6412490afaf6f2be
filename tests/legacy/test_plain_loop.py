"""The plain loop, in process, and against the peer's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from legacy_helpers import Recorded, Scores, examples
from ray_st import InputExample, SentenceTransformer, losses
from ray_st.datasets import NoDuplicatesDataLoader
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.legacy.best_model import score_of

SCHEDULERS = [
    "ConstantLR",
    "WarmupConstant",
    "WarmupLinear",
    "warmupcosine",
    "warmupcosinewithhardrestarts",
]


def _curve(module: Any, model: Any, scheduler: str, loader: Any = DataLoader) -> list[float]:
    """Losses of two objectives over two epochs of three rounds."""
    objectives = [
        (loader(examples(12, 0.1), batch_size=4), module.CosineSimilarityLoss(model)),
        (loader(examples(20, 0.2), batch_size=5), module.MultipleNegativesRankingLoss(model)),
    ]
    seen: list[float] = []
    model.old_fit(
        [(loader, Recorded(loss, seen)) for loader, loss in objectives],
        epochs=2,
        scheduler=scheduler,
        warmup_steps=2,
        optimizer_params={"lr": 1e-3},
        show_progress_bar=False,
    )
    return seen


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_peers_loop_gives_the_same_losses_and_weights(
    scheduler: str, tiny_model: Any, tiny_folder: Path, peer: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers.sentence_transformer import losses as peer_losses

        other = peer.SentenceTransformer(str(tiny_folder), device="cpu")
        theirs = _curve(peer_losses, other, scheduler)
    ours = _curve(losses, tiny_model, scheduler)
    assert len(ours) == 12
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert abs(ours[0] - ours[-2]) > 1e-3  # it learnt something, so the comparison says something
    texts = ["good weather", "the man eats pasta"]
    np.testing.assert_allclose(tiny_model.encode(texts), other.encode(texts), atol=1e-4)


def test_scores_reach_the_callback_and_choose_the_model(tiny_model: Any, tmp_path: Path) -> None:
    evaluator, calls = Scores([0.1, 0.5, 0.3, 0.2]), []
    loader = DataLoader(examples(8), batch_size=2)
    tiny_model.old_fit(
        [(loader, losses.CosineSimilarityLoss(tiny_model))],
        evaluator=evaluator,
        epochs=2,
        evaluation_steps=3,
        warmup_steps=0,
        output_path=str(tmp_path / "best"),
        callback=lambda *call: calls.append(call),
        show_progress_bar=False,
    )
    assert calls == [(0.1, 0, 3), (0.5, 0, -1), (0.3, 1, 3), (0.2, 1, -1)]
    assert evaluator.folders == [str(tmp_path / "best" / "eval")] * 4
    best = SentenceTransformer(tmp_path / "best", device="cpu")
    assert torch.equal(torch.tensor(best.encode("good")), evaluator.embeddings[1])


def test_less_may_be_better(tiny_model: Any, tmp_path: Path) -> None:
    evaluator = Scores([0.5, 0.1], greater_is_better=False)
    tiny_model.old_fit(
        [(DataLoader(examples(4), batch_size=2), losses.CosineSimilarityLoss(tiny_model))],
        evaluator=evaluator,
        epochs=2,
        warmup_steps=0,
        output_path=str(tmp_path),
        show_progress_bar=False,
    )
    best = SentenceTransformer(tmp_path, device="cpu")
    assert torch.equal(torch.tensor(best.encode("good")), evaluator.embeddings[1])


def test_an_evaluator_of_ours_is_scored_by_its_primary_metric(tiny_model: Any, tmp_path: Path) -> None:
    pairs, calls = examples(6), []
    evaluator = EmbeddingSimilarityEvaluator(
        [pair.texts[0] for pair in pairs],  # type: ignore[index]
        [pair.texts[1] for pair in pairs],  # type: ignore[index]
        [pair.label for pair in pairs],
        name="dev",
    )
    tiny_model.old_fit(
        [(DataLoader(pairs, batch_size=2), losses.CosineSimilarityLoss(tiny_model))],
        evaluator=evaluator,
        output_path=str(tmp_path),
        callback=lambda *call: calls.append(call),
        show_progress_bar=False,
    )
    assert calls == [(pytest.approx(evaluator(tiny_model)["dev_spearman_cosine"]), 0, -1)]
    assert (tmp_path / "eval" / "similarity_evaluation_dev_results.csv").is_file()
    assert (tmp_path / "modules.json").is_file()


def test_figures_need_a_primary_one() -> None:
    assert score_of(None, 0.5) == 0.5
    with pytest.raises(ValueError, match=r"Scores returned \['a', 'b'\]; its primary_metric .*'dev_score'"):
        score_of(Scores([]), {"a": 1.0, "b": 2.0})


def test_a_score_that_is_no_number_is_never_the_best(tiny_model: Any, tmp_path: Path) -> None:
    evaluator = Scores([float("nan"), 0.5])
    tiny_model.old_fit(
        [(DataLoader(examples(4), batch_size=2), losses.CosineSimilarityLoss(tiny_model))],
        evaluator=evaluator,
        epochs=2,
        warmup_steps=0,
        output_path=str(tmp_path),
        show_progress_bar=False,
    )
    best = SentenceTransformer(tmp_path, device="cpu")
    assert torch.equal(torch.tensor(best.encode("good")), evaluator.embeddings[1])


def test_checkpoints_are_kept_up_to_a_limit(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model.old_fit(
        [(DataLoader(examples(8), batch_size=2), losses.CosineSimilarityLoss(tiny_model))],
        steps_per_epoch=7,  # more than the loader has
        output_path=str(tmp_path / "last"),
        checkpoint_path=str(tmp_path / "steps"),
        checkpoint_save_steps=2,
        checkpoint_save_total_limit=2,
        show_progress_bar=False,
    )
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["6", "7"]
    last = SentenceTransformer(tmp_path / "last", device="cpu")
    np.testing.assert_array_equal(last.encode("good"), tiny_model.encode("good"))


def test_mixed_precision_and_a_loader_of_ours(tiny_model: Any) -> None:
    loader = NoDuplicatesDataLoader(examples(8), batch_size=4)
    before = tiny_model.encode("good")
    tiny_model.old_fit(
        [(loader, losses.MultipleNegativesRankingLoss(tiny_model))],
        warmup_steps=0,
        use_amp=True,
        show_progress_bar=False,
    )
    assert not np.array_equal(tiny_model.encode("good"), before)
    assert loader.collate_fn is None  # as it was


def test_collating(tiny_model: Any) -> None:
    features, labels = tiny_model.smart_batching_collate(examples(3))
    assert [column["input_ids"].shape[0] for column in features] == [3, 3]
    assert labels.shape == (3,)
    assert labels.dtype == torch.float32
    vectors = [InputExample(texts=["good"], label=np.ones(5, dtype=np.float32))] * 2
    assert tiny_model.smart_batching_collate(vectors)[1].shape == (2, 5)
    tensors = [InputExample(texts=["good"], label=torch.ones(5))] * 2
    assert tiny_model.smart_batching_collate(tensors)[1].shape == (2, 5)


def test_what_cannot_be_trained_on_is_refused(tiny_model: Any) -> None:
    loss = losses.CosineSimilarityLoss(tiny_model)
    with pytest.raises(ValueError, match="found none"):
        tiny_model.old_fit([])
    with pytest.raises(ValueError, match="no batch"):
        tiny_model.old_fit([(DataLoader(examples(3), batch_size=4, drop_last=True), loss)])
    with pytest.raises(ValueError, match="scheduler must be one of"):
        tiny_model.old_fit([(DataLoader(examples(3)), loss)], scheduler="cosine")
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        tiny_model.old_fit([(DataLoader(examples(3)), loss)], epochs=0)
