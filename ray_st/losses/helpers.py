"""Small functions that several losses use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def widen(rows: Tensor, dim: int) -> Tensor:
    """Fills embeddings up with zeros, so that weights of a loss also fit embeddings that a modifier truncated.

    Args:
        rows: (n, d) with d at most ``dim``.
        dim: Dimensions wanted.
    """
    return nn.functional.pad(rows, (0, max(0, dim - rows.shape[-1])))


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuses an option that is not among its choices.

    Raises:
        ValueError: If it isn't.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}; got {value!r}.")


def function_name(function: Callable[..., Any]) -> str:
    """What to call a function or module that is an option of a loss.

    Args:
        function: A function, a partial, or a callable object.
    """
    return getattr(function, "__name__", type(function).__name__)


def model_name(model: nn.Module) -> str:
    """What to call a model that is an option of a loss: the name under which it was loaded, or else its class.

    Args:
        model: Any module; a SentenceTransformer knows its name.
    """
    card = getattr(model, "model_card_data", None)
    known = (getattr(card, name, None) for name in ("model_id", "base_model", "model_name"))
    return next((str(name) for name in known if name), type(model).__name__)


def at_least_float32(scores: Tensor) -> Tensor:
    """Raises half precision to float32 for sums of exponentials.

    Args:
        scores: Any shape, any floating type.
    """
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
