"""Values are pickled without the tensors that lie in files, and come back equal."""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle
from torch import nn

from ray_st import SentenceTransformer
from ray_st.runtime.cluster.pickled import Carried, copy_of, dump
from remote_folder import forget, save_remote


def weights(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def same(model: nn.Module, other: nn.Module) -> bool:
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_model_travels_without_the_weights_in_its_files(tiny_folder: Path) -> None:
    model = SentenceTransformer(tiny_folder, device="cpu")
    assert sum(array.nbytes for array in dump(model).storages) < 0.05 * weights(model)
    other = copy_of(model)
    assert same(model, other)
    assert (model.encode(["one text"]) == other.encode(["one text"])).all()
    with torch.no_grad():
        next(other.parameters()).zero_()  # a copy of the page, not the file
    assert same(model, SentenceTransformer(tiny_folder, device="cpu"))


def test_changed_weights_travel_and_nothing_else(tiny_folder: Path) -> None:
    model = SentenceTransformer(tiny_folder, device="cpu")
    changed: Any = model[0].auto_model.embeddings.word_embeddings.weight
    with torch.no_grad():
        changed[5] += 1
    assert sum(array.nbytes for array in dump(model).storages) < weights(model) / 2 + changed.nbytes
    assert same(model, copy_of(model))


def test_a_model_without_files_travels_whole() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    other = copy_of(model)
    assert same(model, other)
    assert [weight.requires_grad for weight in other.parameters()] == [True] * 4
    with torch.no_grad():
        next(other.parameters()).zero_()  # memory of its own, which may be written
    assert not same(model, other)


def test_shared_weights_stay_shared() -> None:
    table = nn.Parameter(torch.ones(4, 4))
    table.note = "kept"
    copied, view, again = copy_of([table, table.detach()[1:], {"again": table}])
    assert again["again"] is copied
    assert isinstance(copied, nn.Parameter)
    assert copied.note == "kept"
    with torch.no_grad():
        copied[2, 0] = 7
    assert view[1, 0] == 7


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.zeros(0, 4),
        torch.tensor(3),
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, 2, device="meta"),
        torch.eye(3).to_sparse(),
        torch.tensor([1 + 2j]).conj(),
    ],
    ids=["strides", "empty", "number", "bfloat16", "meta", "sparse", "conjugate"],
)
def test_tensors_of_every_kind_come_back(tensor: torch.Tensor) -> None:
    copied = copy_of(tensor)
    assert (copied.dtype, copied.shape, copied.layout) == (tensor.dtype, tensor.shape, tensor.layout)
    assert tensor.device.type == "meta" or torch.equal(copied.to_dense(), tensor.to_dense())


def test_the_optimizer_of_a_model_steps_its_copy() -> None:
    layer = nn.Linear(2, 2)
    copied, optimizer = copy_of((layer, torch.optim.SGD(layer.parameters(), 1.0)))
    assert [id(weight) for weight in optimizer.param_groups[0]["params"]] == [*map(id, copied.parameters())]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of code for this test alone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    forget()
    yield
    forget()


@pytest.mark.usefixtures("own_cache")
def test_code_that_came_with_a_model_travels(tmp_path: Path, tiny_encoder: Path) -> None:
    folder = save_remote(tmp_path / "remote", tiny_encoder)
    model = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
    assert any(name.endswith("modeling_tiny.py") for name in dump(model).code)


def test_code_travels_inside_what_ray_pickles_itself(tiny_folder: Path) -> None:
    task = functools.partial(print, Carried(SentenceTransformer(tiny_folder, device="cpu")))
    sent = cloudpickle.dumps(task)
    assert len(sent) < 0.5 * weights(task.args[0].value)
    assert same(pickle.loads(sent).args[0].value, task.args[0].value)


def test_the_size_counts_no_more_than_what_is_sent(tiny_folder: Path) -> None:
    pickled = dump(SentenceTransformer(tiny_folder, device="cpu"))
    assert len(pickle.dumps(pickled)) >= pickled.nbytes
