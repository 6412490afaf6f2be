"""Positions of a text: they start at its first token and end with the encoder's table of positions.

Encoders with absolute positions count from the first column of a batch. With padding on the left, a text's
positions, and so its vectors, would depend on the longest text of the batch. Some encoders take
``position_ids``, others (those like BART) do not; moving every text to the first column works for all of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe")


@runtime_checkable
class KnowsPositions(Protocol):
    """A model whose number of positions does not show in its tables."""

    position_limit: int | None


def table_limit(model: nn.Module) -> int | None:
    """Number of positions that an encoder has learned; None if it encodes them in another way.

    RoBERTa and its relatives number the first token ``padding_idx + 1``, BART and its relatives 2: they do
    not use all rows of the table. An exported model has no table and says it itself.
    """
    if isinstance(model, KnowsPositions):
        return model.position_limit
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            offset = vars(module).get("offset", skipped)
            return module.num_embeddings - (offset if isinstance(offset, int) else skipped)
    return None


def first_columns(mask: Tensor) -> Tensor:
    """The column of each text's first token (n,), from an attention mask (n, t); 0 without tokens."""
    return (mask != 0).int().argmax(dim=1)


def is_padded_left(inputs: Mapping[str, Tensor]) -> bool:
    """Whether some text of a batch starts after padding, and no positions are given."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.dim() != 2 or not mask.shape[1] or "position_ids" in inputs:
        return False
    return bool(((mask[:, 0] == 0) & (mask != 0).any(dim=1)).any())


def moved_to_start(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with every text in the first columns, followed by its padding."""
    shift, columns = _shift(inputs["attention_mask"])
    return {name: _taken(value, (columns + shift) % len(columns)) for name, value in inputs.items()}


def run_from_start(run: Callable[..., Any], inputs: Mapping[str, Tensor]) -> Any:
    """Runs an encoder with every text moved to the first column, and moves its vectors back.

    Args:
        run: The encoder, called with the inputs.
        inputs: ``attention_mask`` (n, t) and other tensors whose first dimensions are (n, t).

    Returns:
        The encoder's output, with ``last_hidden_state`` (n, t, d) and ``hidden_states``, if any, aligned to
            the inputs.
    """
    shift, columns = _shift(inputs["attention_mask"])
    back = (columns - shift) % len(columns)
    return with_vectors(run(**moved_to_start(inputs)), lambda vectors: _taken(vectors, back))


def with_vectors(output: ModelOutput, change: Callable[[Tensor], Tensor]) -> ModelOutput:
    """An encoder's output after a function changed ``last_hidden_state`` and ``hidden_states``, if any."""
    for name in ("last_hidden_state", "hidden_states"):
        value = output.get(name)
        if value is not None:
            output[name] = change(value) if isinstance(value, Tensor) else tuple(map(change, value))
    return output


def _shift(mask: Tensor) -> tuple[Tensor, Tensor]:
    """By how many columns each text moves (n, 1), and the columns (t,)."""
    return first_columns(mask)[:, None], torch.arange(mask.shape[1], device=mask.device)


def _taken(batch: Tensor, columns: Tensor) -> Tensor:
    """A batch (n, t, ...) in other columns (n, t)."""
    rows = torch.arange(len(batch), device=batch.device)[:, None]
    return batch[rows, columns]
