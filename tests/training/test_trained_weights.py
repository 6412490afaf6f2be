"""The trained weights' way back: what differs from the files is written, and mapped by the model that began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
from safetensors import safe_open
from torch import nn

from ray_st import SentenceTransformer
from ray_st.losses import SoftmaxLoss
from ray_st.models.mapped_weights import MappedFiles
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.trained_weights import WeightsToCome, keep_trained, take_trained, write_trained


@pytest.fixture
def make(tiny_folder: Path) -> Any:
    """Makes a model and a loss with weights of its own, equal each time."""

    def make() -> tuple[SentenceTransformer, SoftmaxLoss]:
        torch.manual_seed(0)
        model = SentenceTransformer(tiny_folder, device="cpu")
        return model, SoftmaxLoss(model, 32, num_labels=2)

    return make


def train(*parts: nn.Module) -> None:
    with torch.no_grad():
        for part in parts:
            for weight in part.parameters():
                if weight.requires_grad:
                    weight += 1


def same(mine: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in mine.state_dict().items())


def names(file: Path) -> set[str]:
    with safe_open(file, "pt") as opened:
        return set(opened.keys())


def test_the_driver_gets_what_was_trained_as_parts_of_the_file(make: Any, tmp_path: Path) -> None:
    (model, loss), (mine, my_loss) = make(), make()
    train(model, loss.classifier)
    write_trained(tmp_path / "trained.safetensors", model, loss)
    kept = list(mine.parameters())
    take_trained(tmp_path / "trained.safetensors", mine, my_loss)
    assert same(mine, model)
    assert same(my_loss, loss)
    files = MappedFiles()
    assert all(files.region_of(weight) for weight in mine.parameters())
    assert all(before is now for before, now in zip(kept, mine.parameters(), strict=True))


def test_only_what_differs_from_the_models_files_is_written(make: Any, tmp_path: Path) -> None:
    model, loss = make()
    model.requires_grad_(False)
    train(loss.classifier)
    write_trained(tmp_path / "trained.safetensors", model, loss)
    assert not any("word_embeddings" in name for name in names(tmp_path / "trained.safetensors"))
    mine, my_loss = make()
    take_trained(tmp_path / "trained.safetensors", mine, my_loss)
    assert same(my_loss, loss)


def test_weights_that_are_shared_are_written_once(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        model[1].weight = model[0].weight
        return model

    model, mine = tied(), tied()
    write_trained(tmp_path / "trained.safetensors", model, nn.Identity())
    assert names(tmp_path / "trained.safetensors") == {"model.0.weight"}
    take_trained(tmp_path / "trained.safetensors", mine, nn.Identity())
    assert mine[0].weight is mine[1].weight
    assert same(mine, model)


def test_a_model_of_another_type_keeps_its_type(make: Any, tmp_path: Path) -> None:
    (model, loss), (mine, my_loss) = make(), make()
    train(model, loss.classifier)
    write_trained(tmp_path / "trained.safetensors", model, loss)
    take_trained(tmp_path / "trained.safetensors", mine.double(), my_loss.double())
    assert {weight.dtype for weight in mine.parameters()} == {torch.float64}
    assert same(mine.float(), model)


def test_weights_of_another_model_are_refused(make: Any, tmp_path: Path) -> None:
    write_trained(tmp_path / "trained.safetensors", *make())
    with pytest.raises(ValueError, match=r"weights that the model and its loss do not have: \['loss"):
        take_trained(tmp_path / "trained.safetensors", make()[0], nn.Identity())


@pytest.mark.parametrize("use", ["encode", "save", "state_dict"])
def test_weights_to_come_are_read_when_the_model_is_used(make: Any, tmp_path: Path, use: str) -> None:
    (model, loss), (mine, my_loss) = make(), make()
    train(model, loss.classifier)
    file = tmp_path / "trained.safetensors"
    write_trained(file, model, loss)
    fetched: list[Path] = []
    WeightsToCome(mine, my_loss, lambda: fetched.append(file) or file)
    assert fetched == []
    assert not any(weight.numel() for weight in mine.parameters())
    uses = {
        "encode": lambda: mine.encode(["one text"]),
        "save": lambda: mine.save(str(tmp_path / "saved")),
        "state_dict": lambda: mine.state_dict(),
    }
    uses[use]()
    uses[use]()
    assert fetched == [file]
    assert same(mine, model)
    assert same(my_loss, loss)


def test_an_object_store_holds_the_file_until_the_next_one(make: Any, tmp_path: Path) -> None:
    storage = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    stores = [CheckpointStore("run", storage, run_id) for run_id in ("first", "second")]
    model, loss = make()
    written = [keep_trained(store, model, loss) for store in stores]
    assert written == ["trained-first.safetensors", "trained-second.safetensors"]
    assert all(stores[1].size_of(name) > 0 for name in written)
    local = stores[1].fetch_file(written[1])
    assert not local.is_relative_to(tmp_path)
    stores[1].delete_files("trained-", but=written[1])
    assert [file.name for file in (tmp_path / "run").iterdir()] == [written[1]]
