"""docs/compatibility.md is what the classes say, and every name of the pages is in it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

import ray_st
from compatibility import arguments, later, sampling, signatures, trainer
from compatibility.page import page, sections
from ray_st import SentenceTransformer, SentenceTransformerTrainer, sampler, training_args
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.training_args.dropped import EFFECTS
from ray_st.util.unserved import UNSERVED

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


@pytest.mark.parametrize("name", later.ROOT.split())
def test_names_of_the_root_are_there_or_refused(name: str) -> None:
    if name in UNSERVED:
        with pytest.raises(ImportError, match=f"{name!r} to import".replace(name, f"ray_st.{name}")):
            getattr(ray_st, name)
    else:
        assert getattr(ray_st, name) is not None


@pytest.mark.parametrize("name", later.MODULE_FILES.split())
def test_module_files_hold_the_class_of_their_name(name: str) -> None:
    part = name.rpartition(".")[2]
    assert getattr(importlib.import_module(name), part).__name__ == part


@pytest.mark.parametrize("name", [*later.LATER_MODULES.split(), *later.PARTS])
def test_parts_of_later_releases_are_where_the_table_says(name: str) -> None:
    module, _, part = name.rpartition(".")
    assert getattr(importlib.import_module(module), part) is not None


@pytest.mark.parametrize("names", later.OPTIONS)
def test_parameters_of_later_releases_are_taken(names: str) -> None:
    where, method, _ = later.OPTIONS[names]
    module, _, part = where.rpartition(".")
    owner = getattr(importlib.import_module(module), part)
    taken = inspect.signature(getattr(owner, method) if method else owner).parameters
    assert set(names.split(", ")) <= set(taken)


def test_methods_of_later_releases_are_there() -> None:
    assert [name for name in later.METHODS if not callable(getattr(SentenceTransformer, name))] == []
