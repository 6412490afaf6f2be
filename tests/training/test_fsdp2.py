"""Two gloo processes with sharded weights (FSDP) against the same two with whole ones (DDP)."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from processes import run_ranks
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator
from ray_st.losses import (
    CachedGISTEmbedLoss,
    ContrastiveTensionLoss,
    ContrastiveTensionLossInBatchNegatives,
    CoSENTLoss,
    DenoisingAutoEncoderLoss,
    Matryoshka2dLoss,
)
from ray_st.training.argument_checks import check_losses
from ray_st.training.checkpoint.host_copies import HostCopies
from ray_st.training.strategies.sharding.layout import units
from ray_st.training.strategies.step_module import Step, describe_weights
from ray_st.world import World
from sharded_runs import (
    CLASSES,
    PAIRS,
    ROWS,
    TEXTS,
    Runs,
    assert_equal,
    cached,
    classes,
    distances,
    join,
    ranking,
    small_calls,
)

SCORED = Dataset.from_dict({**TEXTS, "score": [i * 7 % 11 / 10 for i in range(ROWS)]})
BAD = SCORED[ROWS // 2]["score"]
SAVED_AT = 2
RESUMED = [(True, True), (True, False), (False, True)]  # whether weights are sharded before and after


def cached_layers(model: Any) -> Any:
    return Matryoshka2dLoss(model, cached(model), [32, 16])


def guided(model: Any) -> Any:
    return CachedGISTEmbedLoss(model, model, 0.1, mini_batch_size=1, gather_across_devices=True)


class Breaking(CoSENTLoss):
    """A loss whose gradient, or value, is no number for one row, which one rank holds."""

    def __init__(self, model: Any, in_backward: bool) -> None:
        super().__init__(model)
        self.in_backward = in_backward

    def compute(self, columns: Any) -> Any:
        mine = columns.mine[0]
        bad = torch.nan if (columns.labels == BAD).any() else 1.0
        if self.in_backward:
            mine.register_hook(lambda gradient: gradient * bad)
            return super().compute(columns)
        return super().compute(columns) * bad


def breaking_backward(model: Any) -> Any:
    return Breaking(model, True)


def breaking(model: Any) -> Any:
    return Breaking(model, False)


def evaluating() -> dict[str, Any]:
    scores = [i / 7 for i in range(7)]
    corpus = {str(i): text for i, text in enumerate(TEXTS["b"])}
    queries = {"q": TEXTS["a"][0], "r": TEXTS["a"][1]}
    relevant = {"q": {"0"}, "r": {"1", "5"}}
    search = {
        "batch_size": 2,
        "corpus_chunk_size": 3,
        "mrr_at_k": [3],
        "accuracy_at_k": [1],
        "show_progress_bar": False,
    }
    return {
        "eval_dataset": PAIRS.select(range(9)),
        "evaluator": [
            EmbeddingSimilarityEvaluator(TEXTS["a"][:7], TEXTS["b"][:7], scores, name="sts", batch_size=2),
            InformationRetrievalEvaluator(queries, corpus, relevant, **search),
        ],
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ranking over the pool": (ranking, PAIRS, {}),
    "scores": (CoSENTLoss, SCORED, {"optim": "adamw_torch"}),
    "weights of the loss": (classes, CLASSES, {"weight_decay": 0.1}),
    "a loss each": (
        {"x": classes, "y": CoSENTLoss, "z": classes},
        {"x": CLASSES, "y": SCORED, "z": CLASSES},
        {},
    ),
    "tied weights": (DenoisingAutoEncoderLoss, PAIRS, {}),
    "accumulated": (
        classes,
        CLASSES,
        {
            "gradient_accumulation_steps": 2,
            "learning_rate_mapping": {"classifier": 0.01},
            "weight_decay": 0.1,
        },
    ),
    "unclipped": (ranking, PAIRS, {"max_grad_norm": 0, "optim": "sgd", "learning_rate": 0.1}),
    "rmsprop": (ranking, PAIRS, {"optim": "rmsprop"}),
    "evaluated": (ranking, PAIRS, evaluating()),
    "adapters": (ranking, PAIRS, {"adapted": True}),
    "stored in bfloat16": (classes, CLASSES, {"stored": torch.bfloat16}),
    "adapters beside bfloat16": (ranking, PAIRS, {"stored": torch.bfloat16, "adapted": True}),
    "trained twice": (ranking, PAIRS, {"times": 2}),
    "cached": (cached, PAIRS, {}),
    "cached and recomputed": (cached, PAIRS, {"gradient_checkpointing": True}),
    "cached, several layers": (cached_layers, PAIRS, {}),
    "small calls": (small_calls, PAIRS, {"gradient_accumulation_steps": 2}),
    "guided by itself": (guided, PAIRS, {}),
    "tension": (ContrastiveTensionLoss, PAIRS, {}),
    "unused weights": (ranking, PAIRS, {"unused": True, "ddp_find_unused_parameters": True}),
}
AUTOCAST = {
    "bfloat16": (ranking, PAIRS, {"bf16": True}),  # of "ranking over the pool"
    "adapters in bfloat16": (cached, PAIRS, {"bf16": True, "adapted": True}),
    "layers in bfloat16": (cached_layers, PAIRS, {"bf16": True}),
}
SETTINGS = {
    "by size": {"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 5000},
    "as one": {"auto_wrap_policy": "NO_WRAP"},
    "kept": {"reshard_after_forward": False, "transformer_layer_cls_to_wrap": "BertLayer"},
    "recomputed": {"activation_checkpointing": True},
}


class Watch(TrainerCallback):
    """Notes after two steps how much of the weights and of the optimizer's state this rank holds, and saves the model."""

    def __init__(self, folder: str) -> None:
        self.seen: dict[str, Any] = {}
        self.folder = folder
        self.trainer: Any = None
        self.apart = False

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == 2:
            self.trainer.save_model(self.folder)
            self.apart = self._copies_are_apart()
        weights = list(given["model"].parameters())
        moments = [values["exp_avg"] for values in given["optimizer"].optimizer.state.values()]
        if state.global_step == 2 and all(isinstance(tensor, DTensor) for tensor in (*weights, *moments)):
            for name, tensors in (("weights", weights), ("moments", moments)):
                held = sum(tensor.to_local().numel() for tensor in tensors)
                self.seen[name] = held / sum(tensor.numel() for tensor in tensors)

    def _copies_are_apart(self) -> bool:
        """Whether a layer that is gathered stays so while a thread saves a copy of the model."""
        with self.trainer.strategy.whole_weights():
            twin = HostCopies().of(self.trainer.model)
        *_, layer = (part for part in self.trainer.model.modules() if isinstance(part, FSDPModule))
        layer.unshard()
        twin.state_dict()
        kinds = {type(weight) for weight in layer.parameters()}
        layer.reshard()
        return kinds == {nn.Parameter}


class Cases(Runs):
    """What one of two ranks does."""

    def resumed(self) -> dict[str, Any]:
        """A run to its end, and from its middle on, from a checkpoint of either kind."""
        saving = {"save_strategy": "steps", "save_steps": SAVED_AT, "weight_decay": 0.1}
        found = {
            f"whole {kind}": self.run("whole", classes, CLASSES, kind, **saving) for kind in (False, True)
        }
        for before, kind in RESUMED:
            start = f"{self.folder}/whole-{before}/checkpoint-{SAVED_AT}"
            name = f"from {before}"
            found[f"{name} to {kind}"] = self.run(name, classes, CLASSES, kind, resume=start, **saving)
        return found

    def refused(self) -> dict[str, str]:
        """What this rank says of steps that cannot be taken."""
        found = {}
        cases: dict[str, tuple[Any, Any, dict[str, Any]]] = {
            "unused": (ranking, PAIRS, {"unused": True}),
            "loss": (breaking, SCORED, {}),
            "gradient": (breaking_backward, SCORED, {}),
            "reentrant": (
                lambda model: setattr(loss := ranking(model), "token_budget", 8) or loss,
                PAIRS,
                {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            ),
        }
        for name, (loss, rows, options) in cases.items():
            try:
                self.run(f"refused-{name}", loss, rows, False, **options)
            except ValueError as error:
                found[name] = str(error)
        return found

    def watched(self) -> dict[str, Any]:
        """What a rank holds while it trains, and what is left behind."""
        watch = Watch(f"{self.folder}/middle")
        saving = {"save_strategy": "steps", "save_steps": 2}
        trainer = self.trainer("watched", ranking, PAIRS, True, callbacks=[watch], **saving)
        watch.trainer = trainer
        trainer.train()
        trainer.save_last()
        model = trainer.model
        found = {
            "held": watch.seen,
            "apart": watch.apart,
            "kinds": sorted(
                {type(part).__name__ for part in model.modules() if "FSDP" in type(part).__name__}
            ),
            "plain": {type(weight) for weight in Step(model, trainer.loss).parameters()},
            "same": all(
                torch.equal(one, other)
                for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
                for one, other in zip(model.parameters(), twin.parameters(), strict=True)
            ),
        }
        if self.world.is_first:  # by itself
            found["embeddings"] = model.encode(TEXTS["a"])
        return found


def work(rank: int, size: int, folder: str, model: str) -> None:
    join(rank, size, folder)
    runs = Cases(World(rank, size), folder, model)
    found: dict[str, Any] = {"resumed": runs.resumed(), "watched": runs.watched(), "refused": runs.refused()}
    for name, (loss, rows, options) in {**CASES, **AUTOCAST}.items():
        for fsdp in (False, True):
            found[f"{name} {fsdp}"] = runs.run(name.replace(" ", "-"), loss, rows, fsdp, **options)
    for name, config in SETTINGS.items():
        found[name] = runs.run(name.replace(" ", "-"), ranking, PAIRS, True, config=config)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def ranks(folder: Path, tiny_folder: Path) -> list[dict[str, Any]]:
    """What each rank found."""
    run_ranks(work, 2, str(folder), str(tiny_folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_sharded_weights_train_like_whole_ones(name: str, ranks: list[Any]) -> None:
    for rank in ranks:
        assert_equal(rank[f"{name} True"], rank[f"{name} False"])
    first, second = (rank[f"{name} True"]["weights"] for rank in ranks)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.slow
def test_sharding_adds_little_to_the_rounding_of_autocast(ranks: list[Any]) -> None:
    """Autocast is compared with its own error: one last bit of a weight may round to the other side in bfloat16.

    How often that happens depends on the order in which the CPU adds: never on some, seen on those with AMX.
    """
    for rank in ranks:
        whole, sharded, exact = (
            rank[name] for name in ("bfloat16 False", "bfloat16 True", "ranking over the pool False")
        )
        assert (distances(sharded, whole) <= distances(whole, exact) / 10).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_change_no_figure(name: str, ranks: list[Any]) -> None:
    for rank in ranks:
        assert_equal(rank[name], rank["ranking over the pool False"])


@pytest.mark.slow
def test_an_accumulated_step_is_the_same_on_one_worker(
    ranks: list[Any], tiny_folder: Path, tmp_path: Path
) -> None:
    loss, rows, options = CASES["accumulated"]
    alone = Runs(World(), str(tmp_path), str(tiny_folder))
    found = alone.run("accumulated", loss, rows, False, per_device_train_batch_size=4, **options)
    for rank in ranks:
        assert_equal(rank["accumulated False"], found)


@pytest.mark.slow
def test_steps_that_cannot_be_taken_are_refused_alike(ranks: list[Any]) -> None:
    first, second = (rank["refused"] for rank in ranks)
    for rank, said in enumerate((first, second)):
        assert (
            f"trained weights took no part in the loss of step 1 on rank {rank}: ['0.auto_model.mask_emb']."
            in (said["unused"])
        )
        assert "more than once a step on several workers" in said["reentrant"]
    assert first["loss"] == second["loss"]
    assert first["gradient"] == second["gradient"]
    (mine,) = re.findall(r"^The loss is nan at step \d on rank \d of 2, rows \[([\d, ]+)\] \(", first["loss"])
    (whole,) = re.findall(r"gradient of step \d is not a number .* rows \[([\d, ]+)\] \(", first["gradient"])
    assert str(ROWS // 2) in mine.split(", ")
    assert len(mine.split(", ")) == 2  # those of one rank
    assert str(ROWS // 2) in whole.split(", ")
    assert len(whole.split(", ")) == 4


@pytest.mark.slow
def test_evaluations_were_made(ranks: list[Any]) -> None:
    logs = ranks[0]["evaluated True"]["logs"]
    assert len([entry for entry in logs if {"eval_loss", "eval_sts_spearman_cosine"} <= set(entry)]) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("before", "kind"), RESUMED)
def test_a_resumed_run_ends_like_one_that_went_through(before: bool, kind: bool, ranks: list[Any]) -> None:
    for rank in ranks:
        found, expected = rank["resumed"][f"from {before} to {kind}"], rank["resumed"]["whole False"]
        assert_equal(found, expected)
        assert_equal(rank["resumed"]["whole True"], expected)


@pytest.mark.slow
def test_checkpoints_hold_whole_weights(ranks: list[Any], folder: Path) -> None:
    names = {"loss.safetensors", "scheduler.pt", "manifest.json"}
    forms = {
        False: {"model.safetensors", "optimizer.pt"},
        True: {"model.safetensors.index.json", "optimizer.json"},
    }
    models = []
    for kind in (False, True):
        checkpoint = folder / f"whole-{kind}" / f"checkpoint-{SAVED_AT}"
        assert names | forms[kind] <= {file.name for file in checkpoint.iterdir()}
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        assert manifest["model"] == describe_weights(SentenceTransformer(checkpoint, device="cpu"))
        models.append(SentenceTransformer(checkpoint, device="cpu").state_dict())
    torch.testing.assert_close(*models, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_rank_holds_half_of_everything(ranks: list[Any]) -> None:
    for rank in ranks:
        held = rank["watched"]["held"]
        assert set(held) == {"weights", "moments"}
        assert all(0.45 < share < 0.55 for share in held.values())


@pytest.mark.slow
def test_saving_a_copy_leaves_gathered_layers_alone(ranks: list[Any]) -> None:
    assert all(rank["watched"]["apart"] for rank in ranks)


@pytest.mark.slow
def test_after_training_the_model_is_a_plain_one(ranks: list[Any], folder: Path) -> None:
    for rank in ranks:
        assert rank["watched"]["kinds"] == []
        assert rank["watched"]["plain"] == {nn.Parameter}
        assert rank["watched"]["same"]
    last = folder / "watched-True" / "checkpoint-4"
    expected = SentenceTransformer(last, device="cpu").encode(TEXTS["a"])
    assert ranks[0]["watched"]["embeddings"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_callback_may_save_the_model(ranks: list[Any], folder: Path) -> None:
    folders = (
        folder / "middle",
        folder / "watched-True" / "checkpoint-2",
        folder / "watched-True" / "checkpoint-4",
    )
    saved, same, later = (SentenceTransformer(path, device="cpu").state_dict() for path in folders)
    assert all(torch.equal(saved[name], same[name]) for name in saved)
    assert any(not torch.equal(saved[name], later[name]) for name in saved)


# ---- what is sharded by itself, and what cannot be ----


def names_of(step: Step, **config: Any) -> list[str]:
    return [type(part).__name__ for part in units(step, config)]


def test_layers_are_gathered_one_at_a_time(tiny_model: Any) -> None:
    step = Step(tiny_model, ranking(tiny_model))
    assert sorted(names_of(step)) == ["BertEmbeddings", "BertLayer", "BertLayer"]
    assert names_of(step, transformer_layer_cls_to_wrap=["BertLayer"]) == ["BertLayer", "BertLayer"]
    assert names_of(step, auto_wrap_policy="NO_WRAP") == []
    sizes = {"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 4000}
    assert names_of(step, **sizes) == [*["BertAttention", "BertLayer"] * 2, "Embedding"]
    with pytest.raises(ValueError, match=r"names \['LlamaDecoderLayer'\], .* no such layers. It has \['Bert"):
        names_of(step, transformer_layer_cls_to_wrap=["LlamaDecoderLayer"])


@pytest.mark.filterwarnings("ignore")  # transformers' report of the new cross attention
def test_layers_that_share_weights_are_gathered_with_the_step(tiny_model: Any) -> None:
    assert names_of(Step(tiny_model, DenoisingAutoEncoderLoss(tiny_model))) == []


def test_losses_that_cannot_train_sharded_weights_are_refused(tiny_model: Any) -> None:
    def args(**given: Any) -> Any:
        return SentenceTransformerTrainingArguments("out", **given)

    number = ContrastiveTensionLossInBatchNegatives(tiny_model)
    check_losses(args(), number)
    for given in (number, {"x": ranking(tiny_model), "y": number}):
        with pytest.raises(ValueError, match=r"trains \['logit_scale'\].* leave fsdp out"):
            check_losses(args(fsdp=True), given)
    check_losses(args(fsdp=True), cached_layers(tiny_model))


def test_a_trainer_refuses_them_at_the_start(tiny_model: Any, tmp_path: Path) -> None:
    args = SentenceTransformerTrainingArguments(str(tmp_path), fsdp=True)
    with pytest.raises(ValueError, match="leave fsdp out"):
        SentenceTransformerTrainer(
            tiny_model, args, train_dataset=PAIRS, loss=ContrastiveTensionLossInBatchNegatives
        )
