"""Base of the losses over each query's list of documents."""

from __future__ import annotations

from ray_st.losses.labels import ONE_EACH
from ray_st.losses.scores.score_loss import ScoreLoss


class ListLoss(ScoreLoss):
    """A loss over lists of documents of any lengths, with a label for each document.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, 1).
        activation_fn: Applied to the logits (P,) of all pairs; None for none.
        mini_batch_size: If more than 0, pairs scored at a time, with a gradient cache: the memory of
            activations then does not grow with the batch or its lists, and each pair is scored twice. None,
            or 0 or less, keeps the activations of all pairs.
    """

    lists: bool = True
    labels: str = ONE_EACH
    shown: tuple[str, ...] = ("activation_fn", "mini_batch_size")
