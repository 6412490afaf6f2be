"""Computing with a pool of processes: how texts are split into chunks, and the results joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from ray_st.models.text_encoding import (
    EncodeOptions,
    joined,
    length_batches,
    length_windows,
    size_of,
    with_its_prompt,
)
from ray_st.util.lazy import use

if TYPE_CHECKING:
    from ray_st.models.stack import Stack
    from ray_st.models.whole_model import WholeModel


_CHUNKS_EACH = 10  # enough for an even load, few enough that messages cost little
_MOST_TEXTS = 5000


class Processes(Protocol):
    """Processes that each hold a copy of a model."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def stop(self) -> None:
        """Ends the processes."""


class Pool(Processes, Protocol):
    """Processes that each hold a copy of an embedder."""

    def encode(self, chunks: Sequence[list[str]], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        """Yields the index and ``model.encode(chunk, **options)`` of each chunk, in order of completion."""


class ScoringPool(Processes, Protocol):
    """Processes that each hold a copy of a reranker."""

    def predict(
        self, chunks: Sequence[list[tuple[str, str]]], options: dict[str, Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yields the index and ``model.predict(chunk, **options)`` of each chunk, in order of completion."""


P = TypeVar("P", bound=Processes)


def open_pool(model: WholeModel, target_devices: Sequence[str | torch.device] | None) -> Any:
    """Starts a pool on a Ray cluster; see :class:`ray_st.runtime.encode.encode_pool.EncodePool`."""
    return use("encode_pool")(model, target_devices)


def encode_pooled(
    model: Stack,
    texts: Sequence[str],
    request: EncodeOptions,
    pool: Pool | None,
    devices: Sequence[str | torch.device] | None,
    chunk_size: int | None,
) -> Any:
    """The embeddings of some texts, in their order, computed by a pool of processes.

    A chunk consists of whole batches of one window of the texts sorted by length, so that each batch is the
    same as in one process.

    Args:
        model: The model of which the pool holds copies.
        texts: n texts, at least one.
        request: What to compute, and in which form.
        pool: The processes; None for a temporary pool.
        devices: A device for each process of the temporary pool.
        chunk_size: Texts to send at a time, rounded up to whole batches, at most a window. By default about
            ten chunks per process, of at most 5000 texts.

    Returns:
        As :func:`ray_st.models.text_encoding.encode_texts`, but tensors are in main memory.

    Raises:
        ValueError: If an entry is not a string, or ``chunk_size`` is less than 1.
    """
    model.check_inputs(texts)
    windows = _by_length(model, texts, request)
    with opened(model, pool, devices) as processes:
        size = chunk_rows(len(texts), processes.size, chunk_size, request.batch_size)
        options = _options(request)
        results = in_chunks(
            lambda chunks: processes.encode(chunks, options), texts, windows, size, request.show_progress_bar
        )
    return joined(results, np.concatenate(windows), model, request)


@contextmanager
def opened(model: WholeModel, pool: P | None, devices: Sequence[str | torch.device] | None) -> Iterator[P]:
    """A pool of processes; a temporary one ends with the context.

    Args:
        model: The model of which the pool holds copies.
        pool: The pool; None for a temporary one.
        devices: A device for each process of the temporary pool.
    """
    if pool is not None:
        yield pool
        return
    own = open_pool(model, devices)
    try:
        yield own
    finally:
        own.stop()


def in_chunks(
    compute: Callable[[list[list[Any]]], Iterator[tuple[int, Any]]],
    items: Sequence[Any],
    windows: Sequence[np.ndarray],
    size: int,
    show_progress_bar: bool,
) -> list[Any]:
    """What a pool computes for each chunk of some items, in the order of the chunks.

    Args:
        compute: Yields the index and the result of each chunk, in order of completion.
        items: The items.
        windows: Indices of the items of each window; a chunk belongs to one window.
        size: Items in a chunk; the last of a window may have fewer.
        show_progress_bar: Whether to show one.
    """
    places = [rows[start : start + size] for rows in windows for start in range(0, len(rows), size)]
    results: list[Any] = [None] * len(places)
    with tqdm(total=len(places), desc="Chunks", disable=not show_progress_bar) as bar:
        for number, result in compute([[items[place] for place in chunk] for chunk in places]):
            results[number] = result
            bar.update()
    return results


def chunk_rows(texts: int, processes: int, chunk_size: int | None, batch_size: int) -> int:
    """Texts per chunk: whole batches.

    Raises:
        ValueError: If ``chunk_size`` is less than 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}.")
    size = chunk_size or max(1, min(math.ceil(texts / processes / _CHUNKS_EACH), _MOST_TEXTS))
    return math.ceil(size / batch_size) * batch_size


def _by_length(model: Stack, texts: Sequence[str], request: EncodeOptions) -> list[np.ndarray]:
    """Indices of the texts of each window, in the order in which ``model.encode`` sorts them."""
    encoder, texts = with_its_prompt(model, texts, request.prompt)
    if encoder is None:
        return length_batches([size_of(text) for text in texts], len(texts))
    windows = length_windows(texts, request.batch_size)
    return by_length(windows, lambda rows: [len(ids) for ids in encoder([texts[row] for row in rows])])


def by_length(
    windows: Sequence[np.ndarray], lengths: Callable[[np.ndarray], Sequence[int]]
) -> list[np.ndarray]:
    """Windows with their items sorted by length, the longest first.

    Args:
        windows: Indices of the items of each window.
        lengths: The lengths of some items, by their indices.
    """
    ordered = []
    for window in windows:
        ordered += [window[places] for places in length_batches(lengths(window), len(window))]
    return ordered


def _options(request: EncodeOptions) -> dict[str, Any]:
    return {
        "prompt": request.prompt,
        "batch_size": request.batch_size,
        "show_progress_bar": False,
        "output_value": request.output_value,
        "convert_to_tensor": True,
        "normalize_embeddings": request.normalize,
        "truncate_dim": request.truncate_dim,
        **request.options,
    }
