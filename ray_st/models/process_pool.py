"""Encoding with a pool of processes: how texts are split into chunks, and the results joined."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

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


_CHUNKS_EACH = 10  # enough for an even load, few enough that messages cost little
_MOST_TEXTS = 5000


class Pool(Protocol):
    """Processes that each hold a copy of a model."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def encode(self, chunks: Sequence[list[str]], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        """Yields the index and ``model.encode(chunk, **options)`` of each chunk, in order of completion."""

    def stop(self) -> None:
        """Ends the processes."""


def open_pool(model: Stack, target_devices: Sequence[str | torch.device] | None) -> Pool:
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
    if pool is None:
        own = open_pool(model, devices)
        try:
            return encode_pooled(model, texts, request, own, devices, chunk_size)
        finally:
            own.stop()
    model.check_inputs(texts)
    size = chunk_rows(len(texts), pool.size, chunk_size, request.batch_size)
    windows = _by_length(model, texts, request)
    places = [rows[start : start + size] for rows in windows for start in range(0, len(rows), size)]
    results: list[Any] = [None] * len(places)
    with tqdm(total=len(places), desc="Chunks", disable=not request.show_progress_bar) as bar:
        chunks = [[texts[place] for place in chunk] for chunk in places]
        for number, result in pool.encode(chunks, _options(request)):
            results[number] = result
            bar.update()
    return joined(results, np.concatenate(windows), model, request)


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
    ordered = []
    for window in length_windows(texts, request.batch_size):
        lengths = [len(ids) for ids in encoder([texts[row] for row in window])]
        ordered += [window[places] for places in length_batches(lengths, len(window))]
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
