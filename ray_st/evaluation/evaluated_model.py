"""What evaluators ask of a model: little, so that tests and workers can pass a stand-in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

DOCUMENT_ROLES = ("document", "passage", "corpus")
"""Names of the prompts for what is searched; the first that a model has is used."""


class EvaluatedModel(Protocol):
    """What evaluators need of a model. In training, all workers share the work of its ``encode``."""

    @property
    def encode(self) -> Callable[..., Any]:
        """Maps texts to embeddings (n, d)."""

    @property
    def similarity(self) -> Callable[..., Any]:
        """Maps embeddings (n, d) and (m, d) to similarities (n, m)."""

    @property
    def similarity_fn_name(self) -> str | None:
        """Name of the similarity: cosine, dot, euclidean or manhattan."""


class ScoringModel(Protocol):
    """What evaluators need of a reranker. In training, all workers share the work of its ``predict``."""

    @property
    def predict(self) -> Callable[..., Any]:
        """Maps pairs of texts to scores (n,), or (n, num_labels) for several labels."""

    @property
    def num_labels(self) -> int:
        """Number of scores of each pair."""


def similarities_of(names: Sequence[str], model: EvaluatedModel) -> list[str]:
    """The similarities to measure: the requested ones, else the model's own."""
    return list(names) or [str(model.similarity_fn_name)]


def role_prompt(model: object, roles: Sequence[str]) -> str | None:
    """Name of the model's prompt for a role, such as "query"; None without one.

    Args:
        model: May have ``prompts``, texts by name.
        roles: Names to look for, in order. Prompts that are not empty come first.
    """
    match model:
        case object(prompts=Mapping() as prompts):
            known = [name for name in roles if name in prompts]
            return next((name for name in known if prompts[name]), known[0] if known else None)
    return None


def role_task(model: object, roles: Sequence[str]) -> dict[str, str]:
    """The option of ``encode`` that names a role's task, for models with a module that takes one (a Router).

    Args:
        model: May have ``get_model_kwargs``, which returns the names of the options that its modules take.
        roles: Names of the role, the task first.
    """
    match model:
        case object(get_model_kwargs=known) if callable(known) and "task" in known():
            return {"task": roles[0]}
    return {}


def token_encoder(model: object) -> Callable[[Sequence[str]], Sequence[Sequence[object]]]:
    """Maps texts to their tokens; to their characters if the model does not say how it splits texts."""
    match model:
        case object(token_encoder=make) if callable(make):
            return make() or _characters
    return _characters


def _characters(texts: Sequence[str]) -> Sequence[str]:
    return texts
