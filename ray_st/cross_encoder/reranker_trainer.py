"""The public trainer for rerankers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ray_st.losses.scores import BinaryCrossEntropyLoss, CrossEntropyLoss
from ray_st.model_trainer import ModelTrainer
from ray_st.models.reranker.cross_encoder import CrossEncoder
from ray_st.training.family import Family, Features
from ray_st.util.host_facts import PAIR_COUNTS


def _default_loss(model: CrossEncoder) -> nn.Module:
    return BinaryCrossEntropyLoss(model) if model.num_labels == 1 else CrossEntropyLoss(model)


def _scores(model: CrossEncoder, inputs: Sequence[Features]) -> tuple[Tensor, ...]:
    """The logits of each row: (n,) or (n, k) of its pair; of several (n, m), padded with NaN."""
    (pairs,) = inputs
    logits, counts = model(dict(pairs))["scores"], pairs[PAIR_COUNTS]
    if bool((counts == 1).all()):
        return (logits[:, 0] if logits.shape[1] == 1 else logits,)
    return (torch.nn.utils.rnn.pad_sequence(logits[:, 0].split(counts.tolist()), True, torch.nan),)


RERANKERS = Family(
    name="CrossEncoder",
    encoder=lambda model: model.pair_encoder(),
    tokenize=lambda model: model.tokenize,
    output=_scores,
    default_loss=_default_loss,
    save=lambda model, folder: model.save_pretrained(folder),
    load_weights=lambda model, folder: model.load_weights(folder),
    open=CrossEncoder,
    card=lambda model: model.model_card_data,
    takes_pairs=True,
)
"""Rerankers: the first text column is joined with each of the others, and losses get the pairs' logits."""


class CrossEncoderTrainer(ModelTrainer):
    """Trains and evaluates rerankers on a Ray cluster; used like :class:`ray_st.SentenceTransformerTrainer`.

    The arguments and methods are those of that trainer, and documented there, with these differences. The
    first text column is joined with each of the others, query with documents; a loss that takes lists, such
    as LambdaLoss, wants a column of queries, one of lists of documents, and a list of labels in each row.

    Args:
        model: The :class:`ray_st.CrossEncoder` to train.
        args: Training arguments; by default those with the output folder ``tmp_trainer``.
        train_dataset: As for embedders. Columns are passed to the loss in the dataset's order.
        eval_dataset: The evaluation data, in the same forms.
        loss: A loss of :mod:`ray_st.cross_encoder.losses`, or a function that creates it from the model; by
            default BinaryCrossEntropyLoss for a model of one label, otherwise CrossEntropyLoss.
        compute_metrics: Gets an ``EvalPrediction`` with the logits of each row: (n,) of its pair, (n, k) of
            a model with k labels, (n, m) of rows with several documents, which end with NaN.

    Raises:
        ValueError: If the model, the data and the loss are incompatible.
    """

    family = RERANKERS
