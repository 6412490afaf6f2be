"""A driver whose user has put the model on a device: it stays there, and gets the trained weights there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.trained_weights import keep_trained
from ray_st.training.trainer_spec import take_over, train_task
from ray_st.util.tensors import on_host

from .conftest import GPU, forget_accelerator, make_trainer


def test_the_model_stays_where_it_is(device: torch.device, tiny: Any, loop: Any, tmp_path: Path) -> None:
    worker = loop(tiny("cpu"), tmp_path / "worker")
    result = train_task(worker, None)
    store = CheckpointStore(str(tmp_path), run_id="local-run")
    kept = keep_trained(store, worker.model, worker.loss)  # on the worker's device
    model = tiny(device)
    trainer = make_trainer(model, tmp_path / "driver")
    before = list(model.parameters())
    vars(result).update(weights=kept, store=store)
    take_over(trainer, result)
    assert {weight.device for weight in model.parameters()} == {device}
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))
    for mine, theirs in zip(model.parameters(), worker.model.parameters(), strict=True):
        assert torch.equal(mine.detach(), theirs.detach())
    forget_accelerator()


@pytest.mark.parametrize("device", [GPU], indirect=True)
def test_nothing_of_cuda_is_in_what_is_sent(device: torch.device, tiny: Any) -> None:
    pytest.importorskip("ray")
    from ray_st.runtime.cluster.pickled import dump, load

    model = tiny(device)
    found = load(pickle.loads(pickle.dumps(dump({"model": model, "rows": torch.ones(2, device=device)}))))
    assert found["model"].device == found["rows"].device == torch.device("cpu")
    assert model.device == device
    for mine, theirs in zip(on_host(model).parameters(), found["model"].parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("device", [GPU], indirect=True)
def test_a_run_in_the_drivers_process(device: torch.device, tiny: Any, tmp_path: Path) -> None:
    ray_train = pytest.importorskip("ray.train")
    model = tiny(device)
    trainer = make_trainer(model, tmp_path)
    trainer.scaling_config = ray_train.ScalingConfig(num_workers=0)
    trainer.train()
    assert trainer.model is model
    assert {weight.device for weight in model.parameters()} == {device}
    forget_accelerator()
