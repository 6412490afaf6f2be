"""Where the positions of a text begin and end: at its first token, and where the encoder's table of them does.

Encoders with absolute positions count from the first column of a batch. With padding on the left a text's positions,
and with them its vectors, would depend on the longest text beside it. Some encoders take ``position_ids``, others
(BART's kind) do not; so every text is moved to the first column instead, which is right for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe")


def table_limit(model: PreTrainedModel) -> int | None:
    """How many tokens an encoder has learned positions for; None if it counts in another way.

    RoBERTa and its kin number the first token ``padding_idx + 1``, BART and its kin 2: they use fewer rows than there
    are.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            offset = getattr(module, "offset", skipped)
            return module.num_embeddings - (offset if isinstance(offset, int) else skipped)
    return None


def first_columns(mask: Tensor) -> Tensor:
    """The column of each text's first token (n,), from an attention mask (n, t); 0 for a text without tokens."""
    return (mask != 0).int().argmax(dim=1)


def is_padded_left(inputs: Mapping[str, Tensor]) -> bool:
    """Whether some text of a batch begins behind padding, and nobody said at which positions."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.dim() != 2 or not mask.shape[1] or "position_ids" in inputs:
        return False
    return bool(((mask[:, 0] == 0) & (mask != 0).any(dim=1)).any())


def moved_to_start(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with every text in the first columns, and its padding behind it."""
    shift, columns = _shift(inputs["attention_mask"])
    return {name: _taken(value, (columns + shift) % len(columns)) for name, value in inputs.items()}


def run_from_start(run: Callable[..., Any], inputs: Mapping[str, Tensor]) -> Any:
    """Runs an encoder with every text moved to the first column, and moves its vectors back.

    Args:
        run: The encoder, called with the inputs.
        inputs: ``attention_mask`` (n, t) and other tensors whose first dimensions are (n, t).

    Returns:
        The encoder's output, with ``last_hidden_state`` (n, t, d) and ``hidden_states``, if any, as the inputs stand.
    """
    shift, columns = _shift(inputs["attention_mask"])
    output = run(**moved_to_start(inputs))
    back = (columns - shift) % len(columns)
    for name in ("last_hidden_state", "hidden_states"):
        if output.get(name) is not None:
            value = output[name]
            output[name] = (
                _taken(value, back)
                if isinstance(value, Tensor)
                else tuple(_taken(part, back) for part in value)
            )
    return output


def _shift(mask: Tensor) -> tuple[Tensor, Tensor]:
    """By how many columns each text moves (n, 1), and the columns (t,)."""
    return first_columns(mask)[:, None], torch.arange(mask.shape[1], device=mask.device)


def _taken(batch: Tensor, columns: Tensor) -> Tensor:
    """A batch (n, t, ...) in other columns (n, t)."""
    rows = torch.arange(len(batch), device=batch.device)[:, None]
    return batch[rows, columns]
