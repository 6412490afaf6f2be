"""Encoding by a pool of processes: which texts go together, and how the results come back into one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from ray_st.models.text_encoding import Wish, deliver, size_of, with_its_prompt
from ray_st.util.ports import use

if TYPE_CHECKING:
    from ray_st.models.stack import Stack


_CHUNKS_EACH = 10  # enough for an even end, few enough to be worth a message
_MOST_TEXTS = 5000


class Pool(Protocol):
    """Processes that hold a model each."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def encode(self, chunks: Sequence[list[str]], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        """Calls ``model.encode(chunk, **options)`` for each chunk; yields its number and the result, as they come."""

    def stop(self) -> None:
        """Ends the processes."""


def open_pool(model: Stack, target_devices: Sequence[Any] | None) -> Pool:
    """Starts a pool on a Ray cluster; see :func:`ray_st.runtime.encode_pool.start_pool`."""
    pool: Pool = use("encode_pool")(model, target_devices)
    return pool


def encode_pooled(
    model: Stack,
    texts: Sequence[str],
    wish: Wish,
    pool: Pool | None,
    devices: Sequence[Any] | None,
    chunk_size: int | None,
) -> Any:
    """Encodes with a pool, or with one on some devices that is stopped afterwards; see :func:`encode_in_pool`."""
    if pool is not None:
        return encode_in_pool(model, texts, wish, pool, chunk_size)
    own = open_pool(model, devices)
    try:
        return encode_in_pool(model, texts, wish, own, chunk_size)
    finally:
        own.stop()


def encode_in_pool(model: Stack, texts: Sequence[str], wish: Wish, pool: Pool, chunk_size: int | None) -> Any:
    """The embeddings of some texts, in their order.

    A chunk is a run of whole batches of the texts sorted by length, so that batches hold the texts that they would
    hold in one process.

    Args:
        model: The model of which the pool holds copies.
        texts: n texts, at least one.
        wish: What is to be computed and in which form.
        pool: Who computes.
        chunk_size: Texts that are sent at a time, rounded up to whole batches. By default about ten chunks a process,
            of at most 5000 texts.

    Returns:
        As :func:`ray_st.models.text_encoding.encode_texts`, but tensors are in main memory.

    Raises:
        ValueError: If an entry is no string, or ``chunk_size`` is less than 1.
    """
    model.check_inputs(texts)
    order = _by_length(model, texts, wish.prompt)
    size = chunk_rows(len(texts), pool.size, chunk_size, wish.batch_size)
    places = [order[start : start + size] for start in range(0, len(order), size)]
    results: list[Any] = [None] * len(places)
    with tqdm(total=len(places), desc="Chunks", disable=not wish.show_progress_bar) as bar:
        chunks = [[texts[place] for place in chunk] for chunk in places]
        for number, result in pool.encode(chunks, _options(wish)):
            results[number] = result
            bar.update()
    back = np.argsort(order)
    if wish.output_value != "sentence_embedding":
        flat = [value for result in results for value in result]
        return [flat[place] for place in back]
    return deliver(torch.cat(results)[torch.from_numpy(back)], wish)


def chunk_rows(texts: int, processes: int, asked: int | None, batch_size: int) -> int:
    """How many texts a chunk has: whole batches.

    Raises:
        ValueError: If less than one is asked for.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"chunk_size must be at least 1; got {asked}.")
    size = asked or max(1, min(math.ceil(texts / processes / _CHUNKS_EACH), _MOST_TEXTS))
    return math.ceil(size / batch_size) * batch_size


def _by_length(model: Stack, texts: Sequence[str], prompt: str | None) -> np.ndarray:
    """Positions as ``model.encode`` sorts them: the longest first, equal ones in their order."""
    encoder, texts = with_its_prompt(model, texts, prompt)
    lengths = [*map(size_of, texts)] if encoder is None else [*map(len, encoder(texts))]
    return np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")


def _options(wish: Wish) -> dict[str, Any]:
    return {
        "prompt": wish.prompt,
        "batch_size": wish.batch_size,
        "show_progress_bar": False,
        "output_value": wish.output_value,
        "convert_to_tensor": True,
        "normalize_embeddings": wish.normalize,
        "truncate_dim": wish.truncate_dim,
        **wish.options,
    }
