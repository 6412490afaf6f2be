"""The kinds of models that a run file can name, and where their parts are."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ray_st.cli.run_checks import RunFileError, at


@dataclass(frozen=True)
class ModelKind:
    """A kind of model.

    Args:
        model: Its class, as ``module:name``.
        trainer: Its trainer, likewise.
        losses: The package of its losses.
        evaluators: The packages of its evaluators.
        default_loss: Name of the loss of a run file without one.
        length: Name of the attribute that limits the tokens of an input.
        others: Keys of ``model`` that mean nothing to it.
    """

    model: str
    trainer: str
    losses: str
    evaluators: tuple[str, ...]
    default_loss: str
    length: str
    others: tuple[str, ...] = ()

    def find(self, place: str) -> Any:
        """The class at ``module:name``."""
        module, _, name = place.partition(":")
        return getattr(importlib.import_module(module), name)

    def loss_names(self) -> ModuleType:
        """The package of its losses."""
        return importlib.import_module(self.losses)

    def evaluator_names(self) -> dict[str, Any]:
        """Its evaluators by name."""
        packages = [importlib.import_module(package) for package in self.evaluators]
        return {
            name: getattr(package, name)
            for package in packages
            for name in package.__all__
            if name.endswith("Evaluator")
        }


MODEL_KINDS: Mapping[str, ModelKind] = {
    "SentenceTransformer": ModelKind(
        model="ray_st.models.sentence_transformer:SentenceTransformer",
        trainer="ray_st.trainer:SentenceTransformerTrainer",
        losses="ray_st.losses",
        evaluators=("ray_st.evaluation",),
        default_loss="CoSENTLoss",
        length="max_seq_length",
        others=("num_labels",),
    ),
    "CrossEncoder": ModelKind(
        model="ray_st.models.reranker.cross_encoder:CrossEncoder",
        trainer="ray_st.cross_encoder.reranker_trainer:CrossEncoderTrainer",
        losses="ray_st.losses.scores",
        evaluators=("ray_st.evaluation", "ray_st.evaluation.reranker"),
        default_loss="BinaryCrossEntropyLoss",
        length="max_length",
        others=("truncate_dim", "similarity_fn_name"),
    ),
}

EMBEDDERS = MODEL_KINDS["SentenceTransformer"]


def check_options(kind: str, given: Collection[str], where: str) -> None:
    """Rejects keys of ``model`` that mean nothing to its kind.

    Args:
        kind: The kind's name.
        given: The keys that were given.
        where: Location of the model in the file, for errors.

    Raises:
        RunFileError: Naming the first one.
    """
    for name in MODEL_KINDS[kind].others:
        if name in given:
            raise RunFileError(f"{at(where, name)}: a {kind} has no such option")
