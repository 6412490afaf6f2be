"""In-batch negatives ranking losses: one-way and symmetric, each also with a gradient cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32, check_choice
from ray_st.losses.loss import Loss
from ray_st.losses.tiles import mean_in_tiles
from ray_st.util.similarity import cos_sim

Similarity = Callable[[Tensor, Tensor], Tensor]

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
PARTITION_MODES = ("joint", "per_direction")
HARDNESS_MODES = ("in_batch_negatives", "hard_negatives", "all_negatives")


class MultipleNegativesRankingLoss(Loss):
    r"""Cross entropy of each anchor's positive among all positives and negatives of the batch (InfoNCE).

    For anchors :math:`a_i`, candidates :math:`c_j` (first the positives, then each column of negatives) and
    scale :math:`s`: :math:`-\frac{1}{n} \sum_i \log \frac{\exp(s \cdot sim(a_i, c_i))}{\sum_j \exp(s \cdot
    sim(a_i, c_j))}`. More directions add terms to the denominator, or averaged denominators of their own.
    Large batches are computed in tiles, with memory linear in the number of candidates.

    Inputs: (anchor, positive), (anchor, positive, negative) or (anchor, positive, negative_1, ...,
    negative_n); no labels. Duplicates in a batch are false negatives: use ``BatchSamplers.NO_DUPLICATES``;
    if text ids are given (``collisions="mask"``), candidates with the text of the anchor or its
    positive are excluded. A batch of one pair without negatives has a loss of zero.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Factor on the similarities, the inverse of a temperature; more than 0.
        similarity_fct: Maps (n, d) and (m, d) to similarities (n, m), each a function of its two embeddings
            only. For dot products use a scale of 1.
        gather_across_devices: Whether the candidates of all ranks are negatives, as if the batch were on one
            device.
        directions: Which similarities count: ``"query_to_doc"`` (always among them), ``"query_to_query"`` (an
            anchor and the other anchors), ``"doc_to_query"`` (a positive and all anchors), ``"doc_to_doc"``
            (a positive and the candidates of other anchors).
        partition_mode: ``"joint"`` for one denominator of all directions; ``"per_direction"`` for the mean of
            one loss a direction, each of which must contain the positive pair.
        hardness_mode: Which candidates get ``hardness_strength`` times their similarity, taken as a constant,
            added to their score in the direction query to doc: ``"in_batch_negatives"`` those of other
            anchors, ``"hard_negatives"`` the anchor's own negatives, ``"all_negatives"`` both; None for none.
        hardness_strength: At least 0.

    Raises:
        ValueError: If an option is invalid.

    References:
        Oord, Li and Vinyals 2018, arXiv:1807.03748; Henderson et al. 2017, arXiv:1705.00652, section 4.4;
        directions: Li et al. 2023, arXiv:2308.03281; hardness: Lan et al. 2025, arXiv:2503.04812, equation 5.
    """

    text_columns: tuple[int, int | None] = (2, None)
    leaves_out_repeats: bool = True
    in_batch_negatives: bool = True
    shown: tuple[str, ...] = (
        "scale",
        "similarity_fct",
        "gather_across_devices",
        "directions",
        "partition_mode",
        "hardness_mode",
        "hardness_strength",
    )
    cites: tuple[str, ...] = ("oord2019representation",)

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        gather_across_devices: bool = False,
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(model, gather_across_devices)
        if not scale > 0:
            raise ValueError(f"scale must be more than 0; got {scale}.")
        if not hardness_strength >= 0:
            raise ValueError(f"hardness_strength must be at least 0; got {hardness_strength}.")
        _check_directions(directions, partition_mode)
        check_choice("hardness_mode", hardness_mode, (None, *HARDNESS_MODES))
        self.scale = scale
        self.similarity_fct = similarity_fct
        self.directions = tuple(directions)
        self.partition_mode = partition_mode
        self.hardness_mode = hardness_mode
        self.hardness_strength = hardness_strength

    def compute(self, columns: Columns) -> Tensor:
        """Mean cross entropy of this rank's anchors over the pool's candidates."""
        docs = torch.cat(columns.pool[1:])
        width = len(docs) * sum(d.endswith("doc") for d in self.directions)
        width += len(columns.pool[0]) * sum(d.endswith("query") for d in self.directions)
        rows = len(columns.mine[0])
        return mean_in_tiles(lambda part: self._losses(columns, docs, part), rows, width, self.tile_scores)

    def _losses(self, columns: Columns, docs: Tensor, rows: slice) -> Tensor:
        queries, positives = columns.pool[0], columns.mine[1][rows]
        anchors = columns.mine[0][rows]
        own = columns.own(rows)
        pairs: dict[str, tuple[Tensor, Tensor]] = {
            "query_to_doc": (anchors, docs),
            "query_to_query": (anchors, queries),
            "doc_to_query": (positives, queries),
            "doc_to_doc": (positives, docs),
        }
        scores = {}
        for direction in self.directions:
            similarities = at_least_float32(self.similarity_fct(*pairs[direction]))
            scores[direction] = similarities * self.scale
            if direction == "query_to_doc" and self.hardness_mode and self.hardness_strength:
                scores[direction] = scores[direction] + self._hardness(similarities, own, len(queries))
            # Texts of the same row, the compared text among them, are neither positives nor negatives here.
            if direction in ("query_to_query", "doc_to_doc"):
                mine = _own_columns(own, len(queries), similarities.shape[1])
                scores[direction] = scores[direction].masked_fill(mine, -torch.inf)
            if columns.texts:
                scores[direction] = scores[direction].masked_fill(
                    _repeats(columns, own, direction), -torch.inf
                )
        positive = scores["query_to_doc"].gather(1, own[:, None])[:, 0]
        return self._denominators(list(scores.values())) - positive

    def _denominators(self, scores: list[Tensor]) -> Tensor:
        if self.partition_mode == "joint":
            return torch.logsumexp(torch.cat(scores, dim=1) if len(scores) > 1 else scores[0], dim=1)
        return torch.stack([torch.logsumexp(part, dim=1) for part in scores]).mean(0)

    def _hardness(self, similarities: Tensor, own: Tensor, pool: int) -> Tensor:
        assert self.hardness_mode is not None  # checked by the caller
        mine = _own_columns(own, pool, similarities.shape[1])
        negative = torch.arange(similarities.shape[1], device=own.device) >= pool
        chosen = {
            "in_batch_negatives": ~mine,
            "hard_negatives": mine & negative,
            "all_negatives": ~mine | negative,
        }[self.hardness_mode]
        return self.hardness_strength * similarities.detach() * chosen

    @property
    def temperature(self) -> float:
        """The inverse of the scale."""
        return 1.0 / self.scale


class MultipleNegativesSymmetricRankingLoss(MultipleNegativesRankingLoss):
    """Mean of the ranking losses of positives given anchors and of anchors given positives.

    The same as :class:`MultipleNegativesRankingLoss` with ``directions=("query_to_doc", "doc_to_query")`` and
    ``partition_mode="per_direction"``.

    Inputs: (anchor, positive), also with negatives, which only count for the anchors; no labels. Use
    ``BatchSamplers.NO_DUPLICATES``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Factor on the similarities; more than 0.
        similarity_fct: Maps (n, d) and (m, d) to similarities (n, m).
        gather_across_devices: Whether the rows of all ranks are negatives.
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        gather_across_devices: bool = False,
    ) -> None:
        directions = ("query_to_doc", "doc_to_query")
        super().__init__(model, scale, similarity_fct, gather_across_devices, directions, "per_direction")


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """:class:`MultipleNegativesRankingLoss` with a gradient cache: large batches in a mini-batch's memory.

    Value and gradient equal the plain loss's; a step takes about 20 % longer. See
    :mod:`ray_st.losses.gradient_cache`.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Factor on the similarities; more than 0.
        similarity_fct: Maps (n, d) and (m, d) to similarities (n, m).
        mini_batch_size: Most rows per call of the model, counted over all columns; without padding, and on
            accelerators, as many tokens as so many of the longest rows have.
        mini_batch_num_tokens: Most padded tokens per call, instead of rows.
        gather_across_devices: Whether the candidates of all ranks are negatives.
        directions: As for the plain loss.
        partition_mode: As for the plain loss.
        show_progress_bar: Whether to show progress within a step.
        hardness_mode: As for the plain loss.
        hardness_strength: As for the plain loss.

    References:
        Gao et al. 2021, arXiv:2101.06983.
    """

    shown = (*MultipleNegativesRankingLoss.shown, "mini_batch_size", "mini_batch_num_tokens")
    cites = ("gao2021scaling",)

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        show_progress_bar: bool = False,
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            gather_across_devices,
            directions,
            partition_mode,
            hardness_mode,
            hardness_strength,
        )
        self.cache(mini_batch_size, mini_batch_num_tokens, show_progress_bar)


class CachedMultipleNegativesSymmetricRankingLoss(CachedMultipleNegativesRankingLoss):
    """:class:`MultipleNegativesSymmetricRankingLoss` with a gradient cache.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        scale: Factor on the similarities; more than 0.
        similarity_fct: Maps (n, d) and (m, d) to similarities (n, m).
        mini_batch_size: Most rows per call of the model, counted over all columns; without padding, and on
            accelerators, as many tokens as so many of the longest rows have.
        mini_batch_num_tokens: Most padded tokens per call, instead of rows.
        gather_across_devices: Whether the rows of all ranks are negatives.
        show_progress_bar: Whether to show progress within a step.
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        show_progress_bar: bool = False,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            mini_batch_size,
            mini_batch_num_tokens,
            gather_across_devices,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
            show_progress_bar=show_progress_bar,
        )


def _own_columns(own: Tensor, pool: int, width: int) -> Tensor:
    """Which candidates (k, width) belong to each anchor (k,): its positive and its negatives."""
    return own[:, None] == torch.arange(width, device=own.device)[None] % pool


def _repeats(columns: Columns, own: Tensor, direction: str) -> Tensor:
    """Candidates (k, width) that are no negatives of an anchor (k,): same text, or of the same anchor."""
    anchor, positive = columns.texts[0][own][:, None], columns.texts[1][own][:, None]
    if direction.endswith("query"):
        texts = columns.texts[0][None]
        repeated = (texts == anchor) | (texts == positive)
    else:
        texts = torch.cat(columns.texts[1:])[None]
        same_anchor = (columns.texts[0][None] == anchor).repeat(1, len(columns.texts) - 1)
        repeated = (texts == anchor) | (texts == positive) | same_anchor
    return repeated & ~_own_columns(own, len(columns.texts[0]), repeated.shape[1])


def _check_directions(directions: Sequence[str], partition_mode: str) -> None:
    for direction in directions:
        check_choice("each of directions", direction, DIRECTIONS)
    if "query_to_doc" not in directions or len(set(directions)) != len(directions):
        raise ValueError(
            "directions must contain 'query_to_doc', the pair itself, and none twice; got "
            f"{tuple(directions)}."
        )
    check_choice("partition_mode", partition_mode, PARTITION_MODES)
    alike = {"query_to_query", "doc_to_doc"} & set(directions)
    if partition_mode == "per_direction" and alike:
        raise ValueError(
            f"partition_mode='per_direction' needs the positive pair in each direction; {sorted(alike)} "
            "never hold it. Use partition_mode='joint'."
        )
