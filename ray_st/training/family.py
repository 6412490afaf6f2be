"""What differs between kinds of models; trainer, data path, search and checkpoints are shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ray_st.data.encoding import Encoder

Features = Mapping[str, Any]
Inputs = Mapping[str, tuple[str, ...]]
"""The text columns that make up each input of a row, by input name."""


def each_column(texts: Sequence[str]) -> Inputs:
    """Each text column is a separate input, as for embedders."""
    return {name: (name,) for name in texts}


def first_with_each(texts: Sequence[str]) -> Inputs:
    """The first text column paired with each of the others, as for rerankers (query and documents).

    Raises:
        ValueError: If there is only one column.
    """
    first, *others = texts
    if not others:
        raise ValueError(f"Pairs are made of two text columns or more; there is only {first!r}.")
    return {f"{first}+{name}": (first, name) for name in others}


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        name: Its name in messages.
        inputs: Returns the inputs of a row from the names of its text columns: :func:`each_column` or
            :func:`first_with_each`.
        encoder: Returns a function that converts an input's texts (tuples of texts if it joins columns) to
            token ids; None for a model that takes texts.
        tokenize: Converts the texts of an input to features, if rows stay texts.
        output: Computes the model's output for an input: what losses see, and what ``predict`` returns.
        default_loss: Creates the loss of a trainer that was given none.
        save: Writes a model's folder.
        load_weights: Loads the weights of a folder into a model, in place.
        card: The data of a model's card; None for a model without one.
    """

    name: str
    inputs: Callable[[Sequence[str]], Inputs]
    encoder: Callable[[Any], Encoder | None]
    tokenize: Callable[[Any], Callable[..., Mapping[str, Tensor]]]
    output: Callable[[Any, Features], Tensor]
    default_loss: Callable[[Any], nn.Module]
    save: Callable[[Any, str], None]
    load_weights: Callable[[Any, str], None]
    card: Callable[[Any], Any]
