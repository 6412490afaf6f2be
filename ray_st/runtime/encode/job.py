"""An encoding job: its options, and the facts that identify it when it resumes in the same folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import xxhash
from torch import Tensor

from ray_st.data.sources import Files
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.runtime.encode.work_plan import WorkPiece

_PROBE = "Zwölf Boxkämpfer, 12 of THEM: naïve “quotes”, 東京 and café?! don't un-believ_able\t🙂 x²"
"""A text that tokenizers with different vocabularies or rules split differently."""


@runtime_checkable
class Configured(Protocol):
    """A module of a model that says what its settings are; modules from elsewhere may not."""

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, as JSON values."""


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
        "input": _files_hash(source),
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
    for name, tensor in model.state_dict().items():
        _add(digest, name, tensor)
    for name, value in sorted(model.tokenize([_PROBE]).items()):
        _add(digest, name, value)
    modules = [
        [type(module).__name__, module.get_config_dict() if isinstance(module, Configured) else None]
        for module in model
    ]
    facts = [modules, model.prompts, model.default_prompt_name, model.truncate_dim, model.max_seq_length]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _add(digest: xxhash.xxh3_64, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        digest.update(f"{name} {value!r}".encode())
        return
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _files_hash(source: Files) -> str:
    digest = xxhash.xxh3_64()
    for file in source.files:
        info = file.filesystem.get_file_info(file.path)
        digest.update(json.dumps([info.base_name, info.size, info.mtime_ns]).encode())
    return digest.hexdigest()
