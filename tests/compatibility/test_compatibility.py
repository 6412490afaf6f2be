"""docs/compatibility.md is what the classes say, and every name of the pages is in it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import ray_st
from compatibility import arguments, exporting, later, rerankers, sampling, signatures, trainer
from compatibility.page import page, sections
from ray_st import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    cross_encoder,
    sampler,
    training_args,
)
from ray_st.cross_encoder import evaluation as reranker_evaluation
from ray_st.cross_encoder import losses as reranker_losses
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


@pytest.mark.parametrize(("name", "documented"), signatures.read(exporting.FUNCTIONS).items())
def test_functions_that_export_take_what_is_documented(name: str, documented: list[str]) -> None:
    assert signatures.lacking(getattr(ray_st.backend, name), documented) == []


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


# ---- rerankers ----

SCORED = {**signatures.read(rerankers.LOSSES), **signatures.read(rerankers.EVALUATORS)}


def _scored(name: str) -> Any:
    return getattr(reranker_losses if name in reranker_losses.__all__ else reranker_evaluation, name)


def test_a_rerankers_constructor_takes_the_documented_arguments_in_order() -> None:
    taken = inspect.signature(CrossEncoder).parameters
    documented = rerankers.CONSTRUCTOR.split()
    assert list(taken)[: len(documented)] == ["model_name_or_path", *documented[1:]]
    assert {*documented, *rerankers.LATER.split()} <= set(taken)


def test_a_rerankers_attributes_are_there(tiny_encoder: Path) -> None:
    model = CrossEncoder(str(tiny_encoder), device="cpu")
    assert [name for name in rerankers.ATTRIBUTES.split() if not hasattr(model, name)] == []


@pytest.mark.parametrize(("name", "documented"), signatures.read(rerankers.METHODS).items())
def test_a_rerankers_methods_take_what_is_documented(name: str, documented: list[str]) -> None:
    assert signatures.lacking(getattr(CrossEncoder, name), documented) == []


@pytest.mark.parametrize(("name", "documented"), SCORED.items())
def test_losses_and_evaluators_of_rerankers_take_what_is_documented(name: str, documented: list[str]) -> None:
    assert signatures.lacking(_scored(name), documented) == []


@pytest.mark.parametrize(("name", "documented"), rerankers.OLDER_EVALUATORS.items())
def test_older_evaluators_take_what_is_documented(name: str, documented: tuple[str, str]) -> None:
    parameters, today = documented
    kind = getattr(reranker_evaluation, name)
    inspect.signature(kind).bind(**dict.fromkeys(parameters.split()))
    assert issubclass(kind, getattr(reranker_evaluation, today))


@pytest.mark.parametrize("name", rerankers.PARTS.split())
def test_parts_of_rerankers_are_where_the_table_says(name: str) -> None:
    module, _, part = name.rpartition(".")
    assert getattr(importlib.import_module(module), part).__name__ == part


def test_the_collator_of_pairs_is_refused_in_words() -> None:
    with pytest.raises(ImportError, match="gets rows as dicts of texts"):
        cross_encoder.CrossEncoderDataCollator  # noqa: B018


def test_the_peers_rerankers_have_no_other_names(peer: Any) -> None:
    theirs = importlib.import_module("sentence_transformers.cross_encoder")
    members = {name for name in dir(theirs.CrossEncoder) if not name.startswith("_")}
    taken = set(inspect.signature(theirs.CrossEncoder).parameters)
    known = {*dir(nn.Sequential), *rerankers.ATTRIBUTES.split(), *rerankers.LATER_METHODS}
    known |= {*signatures.read(rerankers.METHODS), *rerankers.LATER.split(), *rerankers.CONSTRUCTOR.split()}
    absent = {name.removesuffix("=") for name in rerankers.ABSENT} - {"modules"}  # a method of any Module
    assert (members | taken) - known == absent
    assert [name for name in absent if hasattr(CrossEncoder, name)] == []
    for part, ours in (("losses", rerankers.LOSSES), ("evaluation", rerankers.EVALUATORS)):
        names = importlib.import_module(f"sentence_transformers.cross_encoder.{part}").__all__
        assert set(names) - set(rerankers.OLDER_EVALUATORS) == set(signatures.read(ours))


@pytest.mark.parametrize("name", SCORED)
def test_defaults_of_rerankers_losses_and_evaluators_are_the_peers(name: str, peer: Any) -> None:
    part = "losses" if name in reranker_losses.__all__ else "evaluation"
    theirs = getattr(importlib.import_module(f"sentence_transformers.cross_encoder.{part}"), name)
    ours = inspect.signature(_scored(name)).parameters
    for one in inspect.signature(theirs).parameters.values():
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
            assert repr(ours[one.name].default) == repr(one.default)
