"""Contrastive tension: two copies of a model that should agree on equal texts only."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32
from ray_st.losses.loss import Loss
from ray_st.losses.model_facts import function_name
from ray_st.util.host_facts import host_copy
from ray_st.util.similarity import cos_sim
from ray_st.util.tensors import to_device


class _TwoModels(Loss):
    """A loss that trains the model together with a copy, which it owns."""

    cites = ("carlsson2021semantic",)

    def __init__(self, model: nn.Module, gather_across_devices: bool = False) -> None:
        super().__init__(model, gather_across_devices)
        self.model1 = copy.deepcopy(model)

    @property
    def model2(self) -> nn.Module:
        """The model in training; ``model1`` is its copy."""
        return self.model


class ContrastiveTensionLoss(_TwoModels):
    """Binary cross entropy of the dot products of two models' embeddings, summed over rows.

    The first column goes through a copy of the model that the loss owns, the second through the model. Both
    are trained; the model is the result.

    Inputs: (input_A, input_B), with the label 1 if the two texts are equal and 0 if not; without labels,
    texts with the same tokens are equal. :class:`ContrastiveTensionDataLoader` makes such batches from single
    texts.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).

    References:
        Carlsson et al. 2021, https://openreview.net/forum?id=Ov_sMNau-PF.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "optional 1 if equal, 0 if not"
    sums: bool = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    def embed(self, sentence_features: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """Embeds the first column with the copy and the second with the model."""
        first, second = sentence_features
        return [*self.run(self.model1, [first]), *self.run(self.model, [second])]

    def compute(self, columns: Columns) -> Tensor:
        """Sum over the rows."""
        first, second = columns.mine
        scores = at_least_float32((first * second).sum(-1))
        labels = columns.labels if columns.labels is not None else _equal(*columns.features)
        labels = to_device(labels, scores.device).to(scores.dtype)
        losses = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        return columns.sum(losses)


class ContrastiveTensionLossInBatchNegatives(_TwoModels):
    """Two-way ranking loss between two models' embeddings of the same texts, with in-batch negatives.

    The loss owns the second model, a copy, and the logarithm of the scale, which is trained.

    Inputs: single texts; no labels. Use ``BatchSamplers.NO_DUPLICATES``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Initial factor on the similarities; more than 0.
        similarity_fct: Maps (n, d) and (m, d) to similarities (n, m).
        gather_across_devices: Whether the texts of all ranks are negatives.

    Raises:
        ValueError: If the scale is not more than 0.

    References:
        Carlsson et al. 2021, https://openreview.net/forum?id=Ov_sMNau-PF; Radford et al. 2021,
        arXiv:2103.00020.
    """

    text_columns: tuple[int, int | None] = (1, 1)
    in_batch_negatives: bool = True

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        if not scale > 0:
            raise ValueError(f"scale must be more than 0; got {scale}.")
        self.similarity_fct = similarity_fct
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def embed(self, sentence_features: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """Embeds the column with both models."""
        return [*self.run(self.model1, sentence_features), *self.run(self.model, sentence_features)]

    def compute(self, columns: Columns) -> Tensor:
        """Mean over this rank's texts and both directions."""
        (first, second), (others, theirs) = columns.mine, columns.pool
        own = columns.own()
        scale = self.logit_scale.exp()
        ways = [self.similarity_fct(first, theirs), self.similarity_fct(others, second).T]
        return torch.stack([F.cross_entropy(at_least_float32(way) * scale, own) for way in ways]).mean()

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card, with the current scale."""
        return {"scale": self.logit_scale.exp().item(), "similarity_fct": function_name(self.similarity_fct)}


class TextPair(NamedTuple):
    """Two texts and whether they are equal (1) or not (0)."""

    texts: list[str]
    label: int


class ContrastiveTensionDataLoader:
    """Batches for :class:`ContrastiveTensionLoss`: each pair of equal texts is followed by unequal ones.

    Texts are reshuffled for each pass; the order depends only on the seed and the number of the pass.

    Args:
        sentences: The texts.
        batch_size: Pairs a batch, a multiple of ``pos_neg_ratio``.
        pos_neg_ratio: One of this many pairs has equal texts.
        seed: Seed of the order.

    Attributes:
        collate_fn: If set, turns a list of pairs into a batch.

    Raises:
        ValueError: If the batch size is not a multiple of the ratio.
    """

    def __init__(
        self, sentences: Sequence[str], batch_size: int, pos_neg_ratio: int = 8, seed: int = 0
    ) -> None:
        if batch_size % pos_neg_ratio:
            raise ValueError(
                f"batch_size must be a multiple of pos_neg_ratio={pos_neg_ratio}; got {batch_size}."
            )
        self.sentences = sentences
        self.batch_size = batch_size
        self.pos_neg_ratio = pos_neg_ratio
        self.seed, self.passes = seed, 0
        self.collate_fn: Callable[[list[TextPair]], Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        order = list(self.sentences)
        random.Random(f"{self.seed}-{self.passes}").shuffle(order)
        self.passes += 1
        texts = iter(order)
        for _ in range(len(self)):
            batch = [self._pair(texts, i % self.pos_neg_ratio == 0) for i in range(self.batch_size)]
            yield batch if self.collate_fn is None else self.collate_fn(batch)

    def _pair(self, texts: Iterator[str], equal: bool) -> TextPair:
        first = next(texts)
        return TextPair([first, first if equal else next(texts)], int(equal))

    def __len__(self) -> int:
        return len(self.sentences) // (2 * self.batch_size - self.batch_size // self.pos_neg_ratio)


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Whether the rows of two columns hold the same tokens (n,)."""
    hosts = [
        [host_copy(column[key]) for key in ("input_ids", "attention_mask")] for column in (first, second)
    ]
    tokens = [[row[mask.bool()].tolist() for row, mask in zip(*host, strict=True)] for host in hosts]
    return torch.tensor([a == b for a, b in zip(*tokens, strict=True)], dtype=torch.float32)
