"""Embeddings of queries and documents: computed by a model, kept in files if asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ray_st.util.search.top_k import ScoreFunction
from ray_st.util.similarity import dot_score
from ray_st.util.tensors import to_tensor


class Encoder(Protocol):
    """What mining asks of a model."""

    similarity_fn_name: Any

    def encode_query(self, sentences: list[str], **options: Any) -> Any:
        """Embeddings of queries (n, d)."""

    def encode_document(self, sentences: list[str], **options: Any) -> Any:
        """Embeddings of documents (n, d)."""

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Scores of each with each (n, m)."""

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Scores row by row (n,)."""


@dataclass(frozen=True)
class Embedder:
    """Embeds texts as vectors of unit length and compares them as the model says.

    Args:
        model: The model.
        query: ``prompt`` and ``prompt_name`` of queries.
        document: The same of documents.
        batch_size: Texts computed at once.
        show_progress_bar: Whether the model shows one.
    """

    model: Encoder
    query: dict[str, str | None] = field(default_factory=dict)
    document: dict[str, str | None] = field(default_factory=dict)
    batch_size: int = 32
    show_progress_bar: bool = False

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(getattr(self.model, "device", "cpu"))

    @property
    def by_product(self) -> bool:
        """Whether the model's similarity of vectors of unit length is their dot product."""
        return str(self.model.similarity_fn_name) in ("cosine", "dot")

    @property
    def similarity(self) -> ScoreFunction:
        """Scores of each with each; does not scale again what has unit length."""
        return dot_score if self.by_product else self.model.similarity

    def queries(self, texts: Sequence[str], **options: Any) -> Tensor:
        """Embeddings (n, d) of queries, on the CPU.

        Args:
            texts: n queries.
            options: Further ones of the model's ``encode_query``, such as a pool.

        Raises:
            ValueError: If an embedding is not finite.
        """
        return self._checked(
            self.model.encode_query(list(texts), **self._options(self.query), **options), texts
        )

    def documents(self, texts: Sequence[str], **options: Any) -> Tensor:
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
    def _checked(found: Any, texts: Sequence[str]) -> Tensor:
        embeddings = to_tensor(found)
        bad = (~embeddings.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise ValueError(
                f"The model's embeddings of {len(bad)} of {len(texts)} texts are not finite; the first is that of "
                f"{texts[int(bad[0])]!r:.80}."
            )
        return embeddings


@contextmanager
def pooled(model: Any, use_multi_process: bool | Sequence[str]) -> Iterator[dict[str, Any]]:
    """Options that let a model compute by several processes for as long as the context is open.

    Args:
        model: With ``start_multi_process_pool``, if processes are asked for.
        use_multi_process: Devices, one for each process; True for the model's own choice, False for none.
    """
    if not use_multi_process:
        yield {}
        return
    devices = None if isinstance(use_multi_process, bool) else list(use_multi_process)
    pool = model.start_multi_process_pool(target_devices=devices)
    try:
        yield {"pool": pool}
    finally:
        model.stop_multi_process_pool(pool)


def fingerprint(model: Any, prompts: dict[str, str | None], texts: Sequence[str]) -> str:
    """A name for the embeddings of some texts: another one for other weights, prompts, dimensions or texts.

    Args:
        model: The model; one without ``state_dict`` is known by its name alone.
        prompts: ``prompt`` and ``prompt_name``.
        texts: The texts.
    """
    digest = hashlib.sha256()
    card = getattr(model, "model_card_data", None)
    known = (getattr(card, "base_model", None), getattr(model, "truncate_dim", None), sorted(prompts.items()))
    digest.update(repr(known).encode())
    named = getattr(model, "prompts", None), getattr(model, "default_prompt_name", None)
    digest.update(repr(named).encode())
    for name, value in model.state_dict().items() if hasattr(model, "state_dict") else ():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def read_embeddings(file: Path, rows: int) -> Tensor | None:
    """Embeddings kept in a file, if there is one.

    Args:
        file: Where they are.
        rows: How many there must be.

    Raises:
        ValueError: If the file holds something else.
    """
    if not file.exists():
        return None
    found = np.load(file, allow_pickle=False)
    if found.ndim != 2 or len(found) != rows:
        raise ValueError(f"{file} holds an array {found.shape} instead of {rows} embeddings; delete it.")
    return to_tensor(found)


def write_embeddings(file: Path, embeddings: Tensor) -> None:
    """Keeps embeddings in a file, which is there whole or not at all.

    Args:
        file: Where to keep them; its folder is made.
        embeddings: (n, d).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.stem}.{os.getpid()}.part")
    with part.open("wb") as stream:
        np.save(stream, embeddings.numpy(), allow_pickle=False)
    part.replace(file)
