"""Twenty steps of our loop and of the peer's trainer on the same batches give the same losses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from ray_st.data.samplers import DefaultBatchSampler, RandomOrder
from ray_st.training.local import local_place

ROWS, BATCH, STEPS = 100, 10, 20


def _rows(columns: int, scores: bool) -> Dataset:
    words = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text", "word"]
    rng = torch.Generator().manual_seed(1)

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


def _our_losses(folder: Path, model: Any, rows: Dataset, name: str) -> list[float]:
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**_options(folder)),
        train_dataset=rows,
        loss=getattr(losses, name)(model),
    )
    loop = trainer._describe().rebuild(local_place(trainer._train_parts(1), folder))
    loop.train()
    return [entry["loss"] for entry in loop.state.log_history if "loss" in entry]


def _peer_losses(folder: Path, model_folder: Path, rows: Dataset, name: str) -> list[float]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import SentenceTransformerTrainer as PeerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as PeerArguments
    from sentence_transformers import losses as peer_losses

    class SameBatches(PeerTrainer):
        def get_batch_sampler(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return OurBatches(DefaultBatchSampler(RandomOrder(len(dataset), seed=42), BATCH))

    class OurBatches(torch.utils.data.BatchSampler):
        def __init__(self, sampler: DefaultBatchSampler) -> None:
            self.ours, self.batch_size, self.drop_last = sampler, BATCH, False

        def __iter__(self) -> Any:
            return iter(self.ours)

        def __len__(self) -> int:
            return len(self.ours)

        def set_epoch(self, epoch: int) -> None:
            self.ours.set_epoch(epoch)

    model = SentenceTransformer(str(model_folder), device="cpu")
    trainer = SameBatches(
        model=model,
        args=PeerArguments(**_options(folder)),
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
