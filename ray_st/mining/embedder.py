"""Embeddings of queries and documents: computed by a model, and cached in files if requested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ray_st.util.atomic import replacing
from ray_st.util.search.top_k import ScoreFunction
from ray_st.util.similarity import dot_score
from ray_st.util.tensors import Embeddings, to_tensor


@runtime_checkable
class Pooled(Protocol):
    """A model that can compute in several processes."""

    def start_multi_process_pool(self, *args: Any, **options: Any) -> Any:
        """Starts processes, one on each of ``target_devices``."""

    def stop_multi_process_pool(self, *args: Any, **options: Any) -> None:
        """Stops them."""


class Encoder(Protocol):
    """What mining needs of a model."""

    @property
    def similarity_fn_name(self) -> str | None:
        """Name of the similarity: cosine, dot, euclidean or manhattan."""

    def encode_query(self, *args: Any, **options: Any) -> Embeddings:
        """Maps queries to embeddings (n, d)."""

    def encode_document(self, *args: Any, **options: Any) -> Embeddings:
        """Maps documents to embeddings (n, d)."""

    @property
    def similarity(self) -> ScoreFunction:
        """Maps embeddings (n, d) and (m, d) to scores (n, m)."""

    @property
    def similarity_pairwise(self) -> ScoreFunction:
        """Maps embeddings (n, d) and (n, d) to scores (n,)."""


@dataclass(frozen=True)
class Embedder:
    """Embeds texts as vectors of unit length, and compares them by the model's similarity.

    Args:
        model: The model.
        query: ``prompt`` and ``prompt_name`` for queries.
        document: The same for documents.
        batch_size: Texts computed at once.
        show_progress_bar: Whether the model shows a progress bar.
    """

    model: Encoder
    query: dict[str, str | None] = field(default_factory=dict)
    document: dict[str, str | None] = field(default_factory=dict)
    batch_size: int = 32
    show_progress_bar: bool = False

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device = _attribute(self.model, "device")
        return device if isinstance(device, torch.device) else torch.device("cpu")

    @property
    def by_product(self) -> bool:
        """Whether the model's similarity of vectors of unit length is their dot product."""
        return str(self.model.similarity_fn_name) in ("cosine", "dot")

    @property
    def similarity(self) -> ScoreFunction:
        """Scores of each with each; vectors are not normalised again."""
        return dot_score if self.by_product else self.model.similarity

    def queries(self, texts: Sequence[str], **options: object) -> Tensor:
        """Embeddings (n, d) of queries, on the CPU.

        Args:
            texts: n queries.
            options: More options of the model's ``encode_query``, such as a pool.

        Raises:
            ValueError: If an embedding is not finite.
        """
        return self._checked(
            self.model.encode_query(list(texts), **self._options(self.query), **options), texts
        )

    def documents(self, texts: Sequence[str], **options: object) -> Tensor:
        """Embeddings (n, d) of documents, on the CPU; like :meth:`queries`."""
        found = self.model.encode_document(list(texts), **self._options(self.document), **options)
        return self._checked(found, texts)

    def _options(self, prompts: dict[str, str | None]) -> dict[str, Any]:
        return {
            **prompts,
            "batch_size": self.batch_size,
            "show_progress_bar": self.show_progress_bar,
            "normalize_embeddings": True,
            "convert_to_numpy": True,
        }

    @staticmethod
    def _checked(found: Embeddings, texts: Sequence[str]) -> Tensor:
        embeddings = to_tensor(found)
        bad = (~embeddings.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise ValueError(
                f"The model's embeddings of {len(bad)} of {len(texts)} texts are not finite; the first is "
                f"that of {texts[int(bad[0])]!r:.80}."
            )
        return embeddings


@contextmanager
def pooled(model: object, use_multi_process: bool | Sequence[str]) -> Iterator[dict[str, Any]]:
    """Options with which a model computes in several processes, while the context is open.

    Args:
        model: The model.
        use_multi_process: Devices, one per process; True for the model's own choice, False for no processes.
    """
    if not use_multi_process:
        yield {}
        return
    if not isinstance(model, Pooled):
        raise ValueError(
            f"use_multi_process needs a model with start_multi_process_pool; {type(model).__name__} has none."
        )
    devices = None if isinstance(use_multi_process, bool) else list(use_multi_process)
    pool = model.start_multi_process_pool(target_devices=devices)
    try:
        yield {"pool": pool}
    finally:
        model.stop_multi_process_pool(pool)


def fingerprint(model: object, prompts: dict[str, str | None], texts: Sequence[str]) -> str:
    """A name for the embeddings of some texts, which depends on weights, prompts, dimensions and texts.

    Args:
        model: The model; without a ``state_dict`` it is identified by its name alone.
        prompts: ``prompt`` and ``prompt_name``.
        texts: The texts.
    """
    digest = hashlib.sha256()
    base = _attribute(_attribute(model, "model_card_data"), "base_model")
    digest.update(repr((base, _attribute(model, "truncate_dim"), sorted(prompts.items()))).encode())
    named = _attribute(model, "prompts"), _attribute(model, "default_prompt_name")
    digest.update(repr(named).encode())
    match model:
        case object(state_dict=weights) if callable(weights):
            for name, value in weights().items():
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _attribute(owner: object, name: str) -> object:
    """An attribute that not every model has; None without it."""
    return getattr(owner, name, None)


def read_embeddings(file: Path, rows: int) -> Tensor | None:
    """Embeddings cached in a file; None without a file.

    Args:
        file: The file.
        rows: Expected number of embeddings.

    Raises:
        ValueError: If the file holds anything else.
    """
    if not file.exists():
        return None
    found = np.load(file, allow_pickle=False)
    if found.ndim != 2 or len(found) != rows:
        raise ValueError(f"{file} holds an array {found.shape} instead of {rows} embeddings; delete it.")
    return to_tensor(found)


def write_embeddings(file: Path | None, embeddings: Tensor) -> None:
    """Caches embeddings in a file, atomically.

    Args:
        file: The file; its folder is created. None caches nothing.
        embeddings: (n, d).
    """
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part, part.open("wb") as stream:
        np.save(stream, embeddings.numpy(), allow_pickle=False)
