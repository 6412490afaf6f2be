"""What differs between kinds of models; trainer, data path, search and checkpoints are shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Features = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        name: Its name in messages.
        encoder: Returns what converts a column's texts to token ids (and their rows to padded features:
            ``pad``, or ``join`` for pairs); None for a model that takes texts.
        tokenize: Converts texts, or pairs of texts, to features, if rows stay texts.
        output: Computes the model's outputs from the features of a batch: a tensor, one entry per row, for
            each thing that ``predict`` returns.
        default_loss: Creates the loss of a trainer that was given none.
        save: Writes a model's folder.
        load_weights: Loads the weights of a folder into a model, in place.
        open: Opens a model's folder.
        card: The data of a model's card; None for a model without one.
        takes_pairs: Whether a row is the first text column joined with each of the others, as for rerankers
            (query and documents); otherwise each text column is an input by itself.
    """

    name: str
    encoder: Callable[[Any], Any]
    tokenize: Callable[[Any], Callable[..., Mapping[str, Tensor]]]
    output: Callable[[Any, Sequence[Features]], tuple[Tensor, ...]]
    default_loss: Callable[[Any], nn.Module]
    save: Callable[[Any, str], None]
    load_weights: Callable[[Any, str], None]
    open: Callable[[str], nn.Module]
    card: Callable[[Any], Any]
    takes_pairs: bool = False
