"""What cannot work is refused on the driver, before a cluster is started or asked for anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses

PAIRS = Dataset.from_dict({"a": ["one", "two"], "b": ["three", "four"]})


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr("ray_st.runtime.cluster.connection.connected", refuse)


def trainer(model: Any, folder: Path, dataset: Any, loss: Callable[..., Any], **arguments: Any) -> Any:
    options = {name: arguments.pop(name) for name in ("eval_dataset", "evaluator") if name in arguments}
    args = SentenceTransformerTrainingArguments(output_dir=str(folder), **arguments)
    return SentenceTransformerTrainer(model=model, args=args, train_dataset=dataset, loss=loss, **options)


@pytest.mark.parametrize(
    ("dataset", "loss", "message"),
    [
        (None, losses.CoSENTLoss, "needs a train_dataset"),
        (PAIRS, losses.TripletLoss, r"TripletLoss needs 3 text columns; train_dataset has .*\['a', 'b'\]"),
        (PAIRS, losses.CoSENTLoss, r"CoSENTLoss needs a label column.*no label column"),
        (PAIRS.select_columns(["a"]), losses.MultipleNegativesRankingLoss, "at least 2 text columns"),
        (PAIRS.select([]), losses.MultipleNegativesRankingLoss, "train_dataset has no rows"),
        (
            PAIRS.add_column("c", [1, 2]),
            losses.MultipleNegativesRankingLoss,
            r"column 'c': texts must be strings; found type int64",
        ),
        (42, losses.MultipleNegativesRankingLoss, r"train_dataset: expected a path.*; found 42 \(int\)"),
    ],
)
def test_data_that_the_loss_cannot_use(
    tiny_model: Any, tmp_path: Path, dataset: Any, loss: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tiny_model, tmp_path, dataset, loss).train()


class TestSplits:
    """Several splits given as a training dataset, as ``load_dataset`` without ``split`` returns them."""

    @pytest.mark.parametrize("make", [dict, DatasetDict])
    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (["train", "test"], "test"),
            (["train", "dev", "test"], "dev"),
            (["train_sft", "test_sft"], "test_sft"),
            (["test", "train", "unsupervised"], "test"),
            (["train", "validation_matched"], "validation_matched"),
        ],
    )
    def test_are_refused_when_the_trainer_is_made(
        self, tiny_model: Any, tmp_path: Path, make: Any, names: list[str], found: str
    ) -> None:
        train = next(name for name in names if name.startswith("train"))
        match = rf"trains on all of them, .*Give train_dataset=data\['{train}'\] and.*eval_dataset=data\['{found}'\]"
        with pytest.raises(ValueError, match=match):
            trainer(
                tiny_model, tmp_path, make(dict.fromkeys(names, PAIRS)), losses.MultipleNegativesRankingLoss
            )

    @pytest.mark.parametrize("names", [["test"], ["dev", "Eval"]])
    def test_without_one_for_training(self, tiny_model: Any, tmp_path: Path, names: list[str]) -> None:
        with pytest.raises(ValueError, match="Give the one split to train on"):
            trainer(tiny_model, tmp_path, dict.fromkeys(names, PAIRS), losses.MultipleNegativesRankingLoss)

    @pytest.mark.parametrize("make", [dict, DatasetDict])
    @pytest.mark.parametrize(
        "names", [["general", "medical"], ["train"], ["test_questions", "quora"], ["train", "extra"]]
    )
    def test_mixtures_and_a_single_split_are_none(
        self, tiny_model: Any, tmp_path: Path, make: Any, names: list[str]
    ) -> None:
        data = make(dict.fromkeys(names, PAIRS))
        mixed = trainer(tiny_model, tmp_path, data, losses.MultipleNegativesRankingLoss)
        assert list(mixed.data.train_specs(1)["train"].datasets) == names

    def test_set_later_are_refused_when_training_begins(self, tiny_model: Any, tmp_path: Path) -> None:
        made = trainer(tiny_model, tmp_path, PAIRS, losses.MultipleNegativesRankingLoss)
        made.train_dataset = DatasetDict(train=PAIRS, test=PAIRS)
        with pytest.raises(ValueError, match="trains on all of them"):
            made.train()


def test_columns_of_lists_are_refused_with_code_that_spreads_them(tiny_model: Any, tmp_path: Path) -> None:
    rows = {
        "query": ["one", "two"],
        "pos": [["three"], ["four", "five"]],
        "neg": [[f"no {n}" for n in range(6)], [f"not {n}" for n in range(4)]],
        "pos_scores": [[0.9], [0.8, 0.7]],
        "neg_scores": [[0.1] * 6, [0.2] * 4],
    }
    ranking = losses.MultipleNegativesRankingLoss
    for data in (Dataset.from_dict(rows), rows):
        with pytest.raises(
            ValueError, match="column 'pos': texts must be strings; found type list"
        ) as refused:
            trainer(tiny_model, tmp_path, data, ranking).train()
    names: dict[str, Any] = {"dataset": Dataset.from_dict(rows)}
    exec(str(refused.value).split("here):\n\n")[1], names)
    spread = names["dataset"]
    assert spread.column_names == ["query", "pos", "neg_1", "neg_2", "neg_3", "neg_4", "scores"]
    assert spread[1]["scores"] == [0.8, 0.2, 0.2, 0.2, 0.2]
    assert len(trainer(tiny_model, tmp_path, spread, losses.DistillKLDivLoss).data.train_specs(1)) == 1
    with pytest.raises(
        ValueError, match=r'\*\*\{f"negatives_\{n\}": text for n, text in enumerate\(row\["negatives"\]'
    ):
        trainer(tiny_model, tmp_path, {"q": ["a"], "negatives": [["b"]]}, ranking).train()


def test_an_evaluation_dataset_is_checked_before_training(tiny_model: Any, tmp_path: Path) -> None:
    ranking = losses.MultipleNegativesRankingLoss
    evaluated: dict[str, Any] = {"eval_strategy": "epoch"}
    with pytest.raises(ValueError, match="eval_dataset has text columns"):
        trainer(tiny_model, tmp_path, PAIRS, ranking, eval_dataset=PAIRS.select_columns(["a"]), **evaluated)
    with pytest.raises(ValueError, match="needs an eval_dataset or an evaluator"):
        trainer(tiny_model, tmp_path, PAIRS, ranking, **evaluated)
    with pytest.raises(ValueError, match="needs an eval_dataset or an evaluator"):
        trainer(tiny_model, tmp_path, PAIRS, ranking).evaluate()
    changed = trainer(tiny_model, tmp_path, PAIRS, ranking)
    changed.args.eval_strategy, changed.eval_dataset = "epoch", PAIRS.select_columns(["a"])
    with pytest.raises(ValueError, match="eval_dataset has text columns"):
        changed.train()


def test_prompts_for_columns_that_are_not_there(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"names \['question'\], which are no text columns; there are \['a', 'b'\]"
    ):
        trainer(
            tiny_model, tmp_path, PAIRS, losses.MultipleNegativesRankingLoss, prompts={"question": "query: "}
        )


def test_constructor(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a model"):
        SentenceTransformerTrainer()
    with pytest.raises(ValueError, match="args must be SentenceTransformerTrainingArguments"):
        SentenceTransformerTrainer(model=tiny_model, args={"output_dir": str(tmp_path)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="loss must be a module"):
        trainer(tiny_model, tmp_path, PAIRS, "cosent")
    with pytest.raises(ValueError, match="is not a valid BatchSamplers"):
        SentenceTransformerTrainingArguments(output_dir=str(tmp_path), batch_sampler="no_repeats")
    with pytest.raises(ValueError, match="warmup_ratio"):
        SentenceTransformerTrainingArguments(output_dir=str(tmp_path), warmup_ratio=1.5)


def test_an_output_folder_that_cannot_be_written(tiny_model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"file/out cannot be written .* Choose another output_dir"):
        trainer(tiny_model, tmp_path / "file" / "out", PAIRS, losses.MultipleNegativesRankingLoss)


def test_an_output_folder_is_no_uri(tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = SentenceTransformerTrainingArguments(output_dir="s3://bucket/runs/first")
    said = r"output_dir is a folder on a disk.* got 's3://bucket/runs/first'.*storage_path='s3://bucket/runs', name='first'"
    with pytest.raises(ValueError, match=said):
        SentenceTransformerTrainer(model=tiny_model, args=args, train_dataset=PAIRS)
    made = trainer(tiny_model, tmp_path / "out", PAIRS, losses.MultipleNegativesRankingLoss)
    made.args.scratch_dir = "gs://bucket/scratch"
    with pytest.raises(ValueError, match="scratch_dir is a folder on a disk"):
        made.train()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_labels_that_cannot_be_grouped(tiny_model: Any, tmp_path: Path) -> None:
    ranking, grouped = losses.MultipleNegativesRankingLoss, {"batch_sampler": "group_by_label"}
    with pytest.raises(
        ValueError, match=r"needs a label column named one of .*; found the columns \['a', 'b'\]"
    ):
        trainer(tiny_model, tmp_path, PAIRS, ranking, **grouped).train()
    labelled = PAIRS.add_column("label", [0, 1])
    with pytest.raises(ValueError, match="a global batch size that is even and at least 4; got 3"):
        trainer(tiny_model, tmp_path, labelled, ranking, per_device_train_batch_size=3, **grouped).train()
