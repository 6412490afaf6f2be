"""docs/compatibility.md is what the classes say, and every name of the pages is in it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from compatibility import arguments, sampling, signatures, trainer
from compatibility.page import page, sections
from ray_st import SentenceTransformerTrainer, sampler, training_args
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.arguments.dropped import EFFECTS

WRITTEN = Path(__file__).parents[2] / "docs" / "compatibility.md"


def test_the_page_is_up_to_date() -> None:
    assert WRITTEN.read_text() == page(), (
        "run: PYTHONPATH=tests python -m compatibility > docs/compatibility.md"
    )


def test_no_name_is_listed_twice() -> None:
    for section in sections():
        names = [row.name for row in section.rows]
        assert len(names) == len(set(names)), section.title


def test_every_argument_of_the_page_is_accepted() -> None:
    fields = arguments.page_fields()
    assert len(fields) == 131
    assert set(EFFECTS) <= set(fields) <= set(SentenceTransformerTrainingArguments.__dataclass_fields__)


def test_every_property_and_method_is_there() -> None:
    assert [
        name for name in arguments.MEMBERS.split() if not hasattr(SentenceTransformerTrainingArguments, name)
    ] == []


def test_defaults_are_the_pages_or_it_is_said() -> None:
    rows = {row.name: row for section in sections() for row in section.rows}
    assert {
        name
        for name in arguments.changed_defaults()
        if rows[name].state not in ("differs", "no effect", "refused")
    } == set()


def test_the_trainers_arguments_attributes_and_methods_are_there(tiny_model: object) -> None:
    taken = list(inspect.signature(SentenceTransformerTrainer).parameters)
    assert taken[: len(trainer.CONSTRUCTOR.split())] == trainer.CONSTRUCTOR.split()
    made = SentenceTransformerTrainer(tiny_model)
    assert [name for name in trainer.ATTRIBUTES.split() if not hasattr(made, name)] == []


@pytest.mark.parametrize(("name", "documented"), signatures.read(trainer.METHODS).items())
def test_methods_take_what_is_documented(name: str, documented: list[str]) -> None:
    assert signatures.lacking(getattr(SentenceTransformerTrainer, name), documented) == []


@pytest.mark.parametrize(("name", "documented"), signatures.read(sampling.SAMPLERS).items())
def test_samplers_take_what_is_documented(name: str, documented: list[str]) -> None:
    assert signatures.lacking(getattr(sampler, name), documented) == []


@pytest.mark.parametrize(("name", "members"), sampling.ENUMERATIONS.items())
def test_members_of_enumerations(name: str, members: dict[str, str]) -> None:
    assert {member.name: member.value for member in getattr(training_args, name)} == members
