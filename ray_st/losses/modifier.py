"""Base of losses that apply another loss to several forms of the same embeddings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ray_st.losses.columns import Columns, Gather
from ray_st.losses.loss import Loss
from ray_st.util.host_facts import host_copy, remember


class Modifier(Loss):
    """A loss that computes an inner loss several times; the inner one embeds, gathers and checks labels.

    Args:
        model: The model of the inner loss.
        loss: Any :class:`ray_st.losses.Loss`, modifiers and cached ones among them.

    Raises:
        ValueError: If the loss is of another kind.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        if not isinstance(loss, Loss):
            raise ValueError(
                f"{type(self).__name__} needs a loss made of ray_st.losses.Loss; found "
                f"{type(loss).__name__}. Write its computation as the method compute(columns) of a subclass "
                "of Loss."
            )
        super().__init__(model, loss.gather_across_devices)
        self.loss = loss
        self.text_columns, self.labels, self.parts = loss.text_columns, loss.labels, loss.parts
        self.in_batch_negatives, self.different_labels = loss.in_batch_negatives, loss.different_labels
        # How many samples were drawn. Saved in checkpoints, so that a resumed run draws the same ones.
        self.register_buffer("choices", torch.zeros((), dtype=torch.long))
        self.choices: Tensor

    def bind(self, gather: Gather | None) -> None:
        """Binds both losses."""
        super().bind(gather)
        self.loss.bind(gather)

    def columns(self, features: Sequence[Mapping[str, Any]], labels: Tensor | None = None) -> Columns:
        """The inner loss's columns."""
        return self.loss.columns(features, labels)

    def embed(self, sentence_features: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The inner loss's embeddings."""
        return self.loss.embed(sentence_features)

    @contextmanager
    def seen_through(self, view: Callable[[nn.Module], nn.Module]) -> Iterator[None]:
        """Passes the view on to the inner loss."""
        with self.loss.seen_through(view):
            yield

    def check_labels(self, labels: Tensor | None, rows: int) -> Tensor | None:
        """As the inner loss does."""
        return self.loss.check_labels(labels, rows)

    @property
    def label_limits(self) -> tuple[bool, float, float]:
        """The inner loss's."""
        return self.loss.label_limits

    @property
    def ignored_label(self) -> float | None:
        """The inner loss's."""
        return self.loss.ignored_label

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """The inner loss's."""
        return self.loss.label_lengths(columns)

    def skip(self) -> None:
        """As the inner loss does."""
        self.loss.skip()

    def choose(self, among: int, number: int) -> list[int]:
        """Samples indices, in ascending order; returns all unless ``0 < number < among``.

        The sample depends only on how many were drawn before in training, so it is the same on every rank:
        whoever calls this in :meth:`compute` must call it as often in :meth:`skip`.

        Args:
            among: How many there are.
            number: How many are wanted.
        """
        if not 0 < number < among:
            return list(range(among))
        drawn = host_copy(self.choices)
        chosen = random.Random(int(drawn)).sample(range(among), number)
        # Evaluation must not change what training samples next.
        if torch.is_grad_enabled():
            # The host counts too, so that only the first draw of a run waits for the device.
            drawn = drawn + 1
            remember(self.choices.add_(1), drawn)
        return sorted(chosen)

    def get_config_dict(self) -> dict[str, Any]:
        """The name of the inner loss, and the options of this one."""
        return {"loss": type(self.loss).__name__, **super().get_config_dict()}
