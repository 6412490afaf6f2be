from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from ray_st import SentenceTransformerTrainer
from ray_st.training.data.prompting import prompt_datasets


def rows() -> Dataset:
    return Dataset.from_dict({"question": ["a", "b"], "answer": ["c", "d"], "label": [0, 1]})


def pair() -> DatasetDict:
    return DatasetDict(first=rows(), second=rows())


def seen(dataset: Any) -> dict[str, Any]:
    return next(iter(dataset))


def prompted(
    data: Any, prompts: Any, name: str | None = None, *, named: bool = False, count: Any = None
) -> Any:
    return prompt_datasets(data, prompts, name, named, count)


FOUR = {
    "one for all": ("p: ", {"question": "p: a", "answer": "p: c"}),
    "by column": ({"question": "q: "}, {"question": "q: a", "answer": "c"}),
    "by dataset": ({"first": "f: "}, {"question": "f: a", "answer": "f: c", "dataset_name": "first"}),
    "by dataset and column": (
        {"first": {"answer": "x: "}},
        {"question": "a", "answer": "x: c", "dataset_name": "first"},
    ),
}


@pytest.mark.parametrize("case", FOUR)
def test_four_forms_of_prompts(case: str) -> None:
    prompts, expected = FOUR[case]
    data = pair()
    found = prompted(data, prompts)
    assert isinstance(found, DatasetDict)
    assert seen(found["first"]) == {**expected, "label": 0}
    assert seen(data["first"]) == {"question": "a", "answer": "c", "label": 0}  # left as it was
    if "dataset" not in case:
        assert seen(prompted(rows(), prompts)) == {**expected, "label": 0}
        assert seen(prompted(rows().to_iterable_dataset(), prompts)) == {**expected, "label": 0}


def test_other_datasets_of_several_keep_their_texts() -> None:
    found = prompted(pair(), {"first": "f: "})
    assert seen(found["second"]) == {"question": "a", "answer": "c", "label": 0, "dataset_name": "second"}


@pytest.mark.parametrize("prompts", [{"first": "f: "}, {"first": {"question": "q: "}}])
def test_prompts_by_dataset_are_refused_for_a_dataset_without_a_name(prompts: Any) -> None:
    with pytest.raises(ValueError, match=r"args.prompts .*first"):
        prompted(rows(), prompts)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no datasets or text columns"):
        prompted(pair(), {"third": "p: "})


def test_names_for_a_loss_of_each_dataset() -> None:
    found = prompted(pair(), None, named=True)
    assert seen(found["second"])["dataset_name"] == "second"
    plain = prompted(pair(), None)
    assert "dataset_name" not in seen(plain["second"])
    assert seen(prompted(rows(), {"mine": "m: "}, "mine")) == {
        "question": "m: a",
        "answer": "m: c",
        "label": 0,
        "dataset_name": "mine",
    }
    assert prompted(None, "p: ") is None


def test_lengths_and_earlier_transforms() -> None:
    shouting = rows().with_transform(
        lambda batch: {**batch, "question": [x.upper() for x in batch["question"]]}
    )
    found = prompted(shouting, {"question": "q: "}, count=len)
    assert seen(found) == {"question": "q: A", "answer": "c", "label": 0, "question_prompt_length": 3}
    assert prompted(found, {"question": "q: "}, count=len) is found  # not twice
    stream = prompted(rows().to_iterable_dataset(), {"question": "q: "}, "mine", count=len)
    assert seen(stream)["question_prompt_length"] == 3
    assert set(stream.features) == {"question", "answer", "label", "question_prompt_length", "dataset_name"}


def test_the_transform_of_one_batch() -> None:
    transform = SentenceTransformerTrainer.add_prompts_or_dataset_name_transform
    assert transform({}, "p: ") == {}
    assert transform({"text": ["a"]}, "p: ", 3, "mine", other=1) == {
        "text": ["p: a"],
        "text_prompt_length": [3],
        "dataset_name": ["mine"],
    }
    assert transform({"text": ["a"]}, {"text": "p: "}, {"p: ": 2}) == {
        "text": ["p: a"],
        "text_prompt_length": [2],
    }


def test_a_trainer_knows_who_needs_names_and_lengths(tiny_model: Any) -> None:
    trainer = SimpleNamespace(model=tiny_model, loss={"first": None, "second": None})
    add = SentenceTransformerTrainer.maybe_add_prompts_or_dataset_name_column
    found = seen(add(trainer, pair(), "the ")["first"])  # type: ignore[arg-type]
    assert found == {"question": "the a", "answer": "the c", "label": 0, "dataset_name": "first"}
    tiny_model.set_pooling_include_prompt(False)
    found = seen(add(trainer, rows(), "the "))  # type: ignore[arg-type]
    assert found["question_prompt_length"] == tiny_model.token_encoder().prompt_length("the ")
