"""An encoding job: its options, and the facts that identify it when it resumes in the same folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import xxhash
from torch import Tensor, nn

from ray_st.data.sources import Files
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.runtime.encode.work_plan import WorkPiece

_PROBE = "Zwölf Boxkämpfer, 12 of THEM: naïve “quotes”, 東京 and café?! don't un-believ_able\t🙂 x²"
"""A text that tokenizers with different vocabularies or rules split differently."""

_SECOND_PROBE = "Portez ce vieux whisky au juge blond qui fume: 42 % — 素早い茶色の狐"


@runtime_checkable
class Configured(Protocol):
    """A module of a model that says what its settings are; modules from elsewhere may not."""

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, as JSON values."""


class Reranker(Protocol):
    """What scoring on the cluster needs of a reranker, such as :class:`ray_st.CrossEncoder`."""

    prompts: dict[str, str]
    default_prompt_name: str | None

    @property
    def max_length(self) -> int | None:
        """Longest pair in tokens."""

    @property
    def num_labels(self) -> int:
        """Scores of a pair."""

    @property
    def activation_fn(self) -> Callable[[Tensor], Tensor]:
        """Applied to the scores."""

    @property
    def predict(self) -> Callable[..., Any]:
        """Maps pairs to scores."""

    @property
    def tokenize(self) -> Callable[..., dict[str, Any]]:
        """Maps pairs to features."""

    def state_dict(self) -> dict[str, Any]:
        """The weights by name."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules within."""

    def to(self, device: Any) -> Any:
        """Moves the model."""


@dataclass(frozen=True)
class EncodeOptions:
    """How each text is encoded.

    Args:
        column: The column that holds the texts.
        prompt_name: Name of the prompt to prepend to each text.
        prompt: The prompt text. Overrides ``prompt_name``.
        batch_size: Number of texts per batch.
        normalize_embeddings: Whether embeddings are scaled to unit length.
        truncate_dim: Dimensions to keep; None keeps the model's.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
    """

    column: str
    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int = 32
    normalize_embeddings: bool = False
    truncate_dim: int | None = None
    precision: str = "float32"

    def for_encode(self) -> dict[str, Any]:
        """Arguments of ``model.encode``.

        Precision is applied afterwards, because its ranges are those of the whole corpus.
        """
        options = {name: value for name, value in asdict(self).items() if name not in ("column", "precision")}
        return {**options, "show_progress_bar": False}


def facts_of(
    model: SentenceTransformer, source: Files, pieces: Sequence[WorkPiece], options: EncodeOptions
) -> dict[str, Any]:
    """The facts that the output depends on, as JSON values.

    Batch size and workers are not included: a job that ran out of memory may resume with different ones.

    Args:
        model: The model.
        source: The input.
        pieces: Its pieces.
        options: How they are encoded.
    """
    recorded = asdict(options)
    del recorded["batch_size"]
    return {
        "model": model_hash(model),
        "input": files_hash(source),
        "input_files": len(source.files),
        "rows": sum(piece.rows for piece in pieces),
        "parts": len(pieces),
        **recorded,
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A description of how two jobs differ."""
    words = {"model": "another model", "input": "other input files, or changed ones"}
    return [
        words.get(name, f"{name} was {then.get(name)!r}, is {now[name]!r}")
        for name in now
        if then.get(name) != now[name]
    ]


def model_hash(model: SentenceTransformer) -> str:
    """A hash of all that determines a model's embeddings: weights, module settings, prompts and tokenizer.

    It does not depend on the model's origin or device.
    """
    digest = xxhash.xxh3_64()
    _add_all(digest, model.state_dict())
    _add_all(digest, dict(sorted(model.tokenize([_PROBE]).items())))
    modules = [
        [type(module).__name__, module.get_config_dict() if isinstance(module, Configured) else None]
        for module in model
    ]
    facts = [modules, model.prompts, model.default_prompt_name, model.truncate_dim, model.max_seq_length]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def scorer_hash(model: Reranker) -> str:
    """A hash of all that determines a reranker's scores; see :func:`model_hash`."""
    digest = xxhash.xxh3_64()
    _add_all(digest, model.state_dict())
    _add_all(digest, dict(sorted(model.tokenize([(_PROBE, _SECOND_PROBE)]).items())))
    facts = [str(model.activation_fn), model.prompts, model.default_prompt_name, model.max_length]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _add_all(digest: xxhash.xxh3_64, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            digest.update(f"{name} {value!r}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def files_hash(source: Files) -> str:
    """A hash of the files' names, sizes and times of change."""
    digest = xxhash.xxh3_64()
    for file in source.files:
        info = file.filesystem.get_file_info(file.path)
        digest.update(json.dumps([info.base_name, info.size, info.mtime_ns]).encode())
    return digest.hexdigest()
