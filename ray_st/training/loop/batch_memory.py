"""The memory of a batch in a run whose number of workers may change.

Global batches stay the same, so each of fewer workers has more rows. A loss that compares rows needs all of
them at once, so gradients cannot be accumulated over parts of a batch. Instead the loss embeds, at a time, as
many texts as with the greatest number of workers, and computes activations again in the backward pass
(:mod:`ray_st.losses.gradient_cache`): the same loss and gradient, one more forward pass, and activations of
no more texts than before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

from ray_st.losses.loss import Loss
from ray_st.training.data.specs import TRAIN, LoaderSpec
from ray_st.training.strategies.step_module import LossOrLosses, losses_of
from ray_st.training.worker_context import WorkerContext
from ray_st.util.events import notes

T = TypeVar("T")


def texts_at_once(specs: Mapping[str, LoaderSpec], most: int) -> dict[str, int]:
    """The texts of a worker's share of a batch with the greatest number of workers, by training dataset.

    Args:
        specs: The run's data, by name.
        most: The greatest number of workers.
    """
    datasets = specs[TRAIN].datasets if TRAIN in specs else {}
    return {
        name: math.ceil(dataset.batch_size / most) * len(dataset.encoding.columns.texts)
        for name, dataset in datasets.items()
    }


@dataclass(frozen=True)
class BuildWithinMemory(Generic[T]):
    """Creates a worker's trainer whose batches take the memory that the greatest number of workers needs.

    Args:
        build: Creates it from a worker's context.
        texts: See :func:`texts_at_once`.
        most: The greatest number of workers.
    """

    build: Callable[[WorkerContext], T]
    texts: Mapping[str, int]
    most: int

    def __call__(self, context: WorkerContext) -> T:
        """The trainer."""
        if context.world.size < self.most:
            context = dataclasses.replace(context, texts_at_once=self.texts)
        return self.build(context)


def embed_in_parts(loss: LossOrLosses, texts: Mapping[str, int], is_first: bool = True) -> None:
    """Has losses embed a limited number of texts at a time, but for those that have a limit of their own.

    Args:
        loss: The loss, or one for each dataset.
        texts: How many, by training dataset; empty for no limit.
        is_first: Whether this rank logs it.
    """
    if not texts:
        return
    for name, one in losses_of(loss).items():
        most = texts[name] if name in texts else max(texts.values())
        embedding = [part for part in one.modules() if isinstance(part, Loss)]
        for part in embedding:
            if part.mini_batch_size is None and part.mini_batch_num_tokens is None:
                part.mini_batch_size = most
        if is_first:
            notes.info(_how(one, most, bool(embedding)))


def _how(loss: nn.Module, texts: int, in_parts: bool) -> str:
    kind = type(loss).__name__
    if not in_parts:
        return f"{kind} cannot embed in parts: with fewer workers its batches take more memory"
    return (
        f"{kind} embeds {texts} texts at a time, as many as with all workers, and computes activations again "
        "in the backward pass"
    )
