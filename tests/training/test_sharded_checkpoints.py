"""Checkpoints of sharded runs: each rank writes its part, and any number of ranks goes on from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from sentence_transformers import SentenceTransformer as PeerModel
from torch import nn

from processes import run_ranks
from ray_st import SentenceTransformer
from ray_st.training.strategies.sharding.node_file import PREFIX, NodeFile
from ray_st.training.strategies.sharding.optimizer_files import OptimizerPart, read_optimizer
from ray_st.training.strategies.sharding.weight_parts import (
    Owners,
    join_parts,
    own_part,
    parts_in,
    saving_parts,
)
from ray_st.training.strategies.step_module import Step
from ray_st.world import World
from sharded_runs import CLASSES, TEXTS, Runs, assert_equal, classes, join, ranking

SAVED_AT = 1
OPTIONS = {
    "global_train_batch_size": 6,
    "num_train_epochs": 2,
    "weight_decay": 0.1,
    "save_strategy": "steps",
    "save_steps": SAVED_AT,
}
OTHERS = {"three ranks": 3, "one rank": 1}


def work(rank: int, size: int, folder: str, model: str, start: str | None) -> None:
    """A sharded run from its start or from a checkpoint; on one rank it is not sharded."""
    join(rank, size, folder)
    world = World(rank, size, local_rank=rank)
    run = Runs(world, folder, model).run("run", classes, CLASSES, True, resume=start, **OPTIONS)
    torch.save(run, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def ran(folder: Path, model: Path, size: int, start: Path | None = None) -> list[Any]:
    folder.mkdir()
    run_ranks(work, size, str(folder), str(model), start and str(start), count=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def two(folder: Path, tiny_folder: Path) -> list[Any]:
    return ran(folder / "two", tiny_folder, 2)


@pytest.fixture
def checkpoint(two: list[Any], folder: Path) -> Path:
    return folder / "two" / "run-True" / f"checkpoint-{SAVED_AT}"


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_numbers_of_ranks_go_on(
    name: str, two: list[Any], checkpoint: Path, folder: Path, tiny_folder: Path
) -> None:
    for found in ran(folder / name, tiny_folder, OTHERS[name], checkpoint):
        assert_equal(found, two[0])


@pytest.mark.slow
def test_a_sharded_run_goes_on_from_an_unsharded_one(two: list[Any], folder: Path, tiny_folder: Path) -> None:
    ran(folder / "alone", tiny_folder, 1)
    start = folder / "alone" / "run-True" / f"checkpoint-{SAVED_AT}"
    assert (start / "optimizer.pt").exists()
    for found in ran(folder / "from one", tiny_folder, 2, start):
        assert_equal(found, two[0])


@pytest.mark.slow
def test_each_rank_writes_its_part(checkpoint: Path) -> None:
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    files = sorted(file.name for file in checkpoint.glob("model*.safetensors"))
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file in files:
        with safe_open(checkpoint / file, "pt") as opened:
            assert set(opened.keys()) == {name for name in index if index[name] == file}
    assert {index[name] for name in index if name.startswith("embeddings")} == {files[0]}
    assert {index[name] for name in index if name.startswith("encoder.layer.1.")} == {files[1]}
    moments = [file.stat().st_size for file in sorted((checkpoint / "optimizer").iterdir())]
    assert len(moments) == 2
    assert moments[0] == pytest.approx(moments[1], rel=0.1)
    assert not (checkpoint / "optimizer.pt").exists()


@pytest.mark.slow
def test_a_checkpoint_is_a_model_folder_like_any_other(checkpoint: Path) -> None:
    mine = SentenceTransformer(checkpoint, device="cpu").encode(TEXTS["a"])
    theirs = PeerModel(str(checkpoint), device="cpu").encode(TEXTS["a"])
    assert mine == pytest.approx(theirs, abs=1e-6)


# ---- who saves what ----


def test_layers_are_not_divided(tiny_model: Any) -> None:
    step = Step(tiny_model, classes(tiny_model))
    owners = Owners.among(step, 3)
    names = {name: owners.of[weight] for name, weight in step.named_parameters()}
    by_layer: dict[str, set[int | None]] = {}
    for name, owner in names.items():
        by_layer.setdefault(name.rpartition("layer.")[2][:1] if "layer." in name else name[:28], set()).add(
            owner
        )
    assert all(len(found) == 1 for found in by_layer.values())
    assert names["model.0.auto_model.embeddings.word_embeddings.weight"] == 0
    assert names["loss.classifier.weight"] == 0
    assert set(names.values()) == set(owners.ranks[tiny_model[0].auto_model])
    assert set(Owners.among(step, 1).of.values()) == {0}


def test_what_lies_below_adapters_is_not_gathered(tiny_model: Any, tmp_path: Path) -> None:
    from peft import LoraConfig

    tiny_model.add_adapter(LoraConfig(target_modules=["query"], r=4))
    step = Step(tiny_model, ranking(tiny_model))
    owners = Owners.among(step, 2)
    saved = {name for name, weight in step.named_parameters() if owners.of[weight] == 0}
    assert all("lora" in name or "word_embeddings" in name for name in saved)
    assert sum("lora" in name for name in saved) == 4
    assert owners.ranks == {}


def test_parts_of_all_ranks_are_the_whole_model(tiny_model: Any, tmp_path: Path) -> None:
    step, told = Step(tiny_model, ranking(tiny_model)), []
    owners = Owners.among(step, 4)
    for rank in range(4):
        place = tmp_path / str(rank)
        take = own_part(owners, rank, torch.clone)
        copy = SentenceTransformer(modules=list(tiny_model))
        weights = dict(step.named_parameters())
        with saving_parts(owners, rank):
            for name, weight in weights.items():
                put(step, name, nn.Parameter(take(weight)))
            copy.save_pretrained(place)
        for name, weight in weights.items():
            put(step, name, weight)
        told.append(parts_in(place, alone=rank > 0))
        for file in [file for file in place.rglob("*") if file.is_file()] if rank else ():
            file.rename(tmp_path / "0" / file.relative_to(place))
    join_parts(tmp_path / "0", told)
    found = SentenceTransformer(tmp_path / "0", device="cpu").state_dict()
    assert len(told[0]) == 1
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(found[name], tensor)


def put(step: nn.Module, name: str, weight: nn.Parameter) -> None:
    path, _, last = name.rpartition(".")
    step.get_submodule(path)._parameters[last] = weight


# ---- the optimizer's files ----


def stepped(kind: type[torch.optim.Optimizer], **options: Any) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(1)
    weights = {"a.w": nn.Parameter(torch.randn(3, 2)), "b": nn.Parameter(torch.randn(4))}
    optimizer = kind([{"params": [weights["a.w"]]}, {"params": [weights["b"]], "lr": 0.5}], **options)
    for _ in range(2):
        sum((weight**2).sum() for weight in weights.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    return optimizer, weights


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {"lr": 0.1, "betas": (0.8, 0.9)}),
        (torch.optim.AdamW, {"lr": torch.tensor(0.25), "capturable": False, "foreach": False}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5}),
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.RMSprop, {"lr": 0.1}),
    ],
)
def test_an_optimizer_goes_on_from_its_files(kind: Any, options: dict[str, Any], tmp_path: Path) -> None:
    optimizer, weights = stepped(kind, **options)
    OptimizerPart.of(optimizer, weights, True, torch.clone).write(tmp_path, 0)
    other = kind([{"params": [weights["a.w"]]}, {"params": [weights["b"]]}], **options)
    read_optimizer(tmp_path, other, weights)
    expected, found = optimizer.state_dict(), other.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    torch.testing.assert_close(found["state"], expected["state"], rtol=0, atol=0)


def test_the_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    optimizer, weights = stepped(torch.optim.SGD, lr=0.1)
    OptimizerPart.of(optimizer, weights, True, torch.clone).write(tmp_path, 0)
    other = torch.optim.SGD(weights.values(), lr=0.1)
    with pytest.raises(
        ValueError, match=r"optimizer.json is of an optimizer with other .* of 1 \+ 1 weights, .* has 2\."
    ):
        read_optimizer(tmp_path, other, weights)


# ---- weights once on each node ----


def map_tensors(rank: int, size: int, folder: str) -> None:
    join(rank, size, folder)
    file = NodeFile(World(rank, size, local_rank=rank), folder)
    given = [torch.arange(5.0).bfloat16(), torch.ones(2, 3), torch.tensor(4.0), torch.empty(0, 2)]
    for tensor in given:
        file.take(tensor)
    found = file.tensors()
    same = all(torch.equal(one, other) for one, other in zip(found, given, strict=True))
    found[1][0] = rank  # no other rank sees it
    dist.barrier()
    left = [path.name for path in Path(folder).iterdir() if path.name.startswith(PREFIX)]
    torch.save([same, found[1].sum().item(), left], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_node_has_one_copy_that_each_rank_maps(tmp_path: Path) -> None:
    run_ranks(map_tensors, 2, str(tmp_path))
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [[True, 3.0, []], [True, 6.0, []]]
