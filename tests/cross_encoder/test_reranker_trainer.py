"""The reranker trainer: the peer's losses step by step, the same run on any number of ranks, after a stop, for all losses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from our_batches import OurBatches
from ray_st import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from ray_st.cross_encoder import losses
from ray_st.training.data.local_source import local_context
from reranker_rows import rows

STEPS, BATCH = 20, 6
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "BinaryCrossEntropyLoss": ("binary", {}),
    "CrossEntropyLoss": ("classes", {}),
    "MSELoss": ("scores", {}),
    "MarginMSELoss": ("margins", {}),
    "MultipleNegativesRankingLoss": ("triplets", {"num_negatives": None}),
    "CachedMultipleNegativesRankingLoss": ("pairs", {"num_negatives": None, "mini_batch_size": 5}),
    "LambdaLoss": ("lists", {}),
    "ListNetLoss": ("lists", {}),
    "ListMLELoss": ("lists", {}),
    "PListMLELoss": ("lists", {}),
    "RankNetLoss": ("lists", {}),
    "ADRMSELoss": ("lists", {}),
}


def options(folder: Path, **more: Any) -> dict[str, Any]:
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
        **more,
    }


def logged(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def model_of(folder: Path, name: str) -> CrossEncoder:
    torch.manual_seed(0)
    labels = {"num_labels": 3} if name == "CrossEntropyLoss" else {}
    more = {"model_kwargs": {"ignore_mismatched_sizes": True}} if labels else {}
    return CrossEncoder(str(folder), device="cpu", **labels, **more)


def made(folder: Path, model: Any, name: str, **more: Any) -> CrossEncoderTrainer:
    form, arguments = CASES[name]
    return CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**options(folder, **more)),
        train_dataset=rows(form),
        loss=getattr(losses, name)(model, **arguments),
    )


def peer_losses(folder: Path, model_folder: Path, name: str) -> list[float]:
    from sentence_transformers import cross_encoder as peer
    from sentence_transformers.cross_encoder import losses as losses_of_peer

    class SameBatches(peer.CrossEncoderTrainer):
        def get_batch_sampler(self, dataset: Any, batch_size: int, *args: Any, **kwargs: Any) -> Any:
            return OurBatches(len(dataset), batch_size)

    form, arguments = CASES[name]
    model = peer.CrossEncoder(str(model_folder), device="cpu")
    trainer = SameBatches(
        model=model,
        args=peer.CrossEncoderTrainingArguments(**options(folder)),
        train_dataset=rows(form),
        loss=getattr(losses_of_peer, name)(model, **arguments),
    )
    trainer.train()
    return logged(trainer)


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_give_the_peers_losses(
    name: str, tmp_path: Path, tiny_reranker: Path, peer: Any
) -> None:
    model = model_of(tiny_reranker, name)
    model.save_pretrained(str(tmp_path / "model"))
    trainer = made(tmp_path / "ours", model, name)
    loop = trainer.spec().rebuild(local_context(trainer.data.train_specs(1), tmp_path / "ours"))
    loop.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer_losses(tmp_path / "peer", tmp_path / "model", name)
    ours = logged(loop)
    assert len(ours) == STEPS
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[0] != pytest.approx(ours[-1], abs=1e-3)
