"""Ranking loss whose negatives are filtered by a guide model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ray_st.losses.budget import default_budget
from ray_st.losses.columns import Columns
from ray_st.losses.embed import embed_columns, run_plainly
from ray_st.losses.helpers import at_least_float32, check_choice
from ray_st.losses.loss import Loss
from ray_st.losses.model_facts import max_seq_length, model_name, takes_host_facts, tokenizer_of, vocabularies
from ray_st.losses.tiles import mean_in_tiles
from ray_st.util.host_facts import with_host_facts, without_host_facts
from ray_st.util.similarity import cos_sim
from ray_st.util.tensors import batch_to_device


class GISTEmbedLoss(Loss):
    """In-batch negatives ranking loss without the candidates that a guide model considers false negatives.

    A candidate counts if the guide finds it less similar to the anchor than the positive is, by a margin.
    Candidates are the other positives, the negatives, the other anchors, and the other positives seen from
    the positive. The guide is never trained or saved in checkpoints. Large batches are computed in tiles.

    Inputs: (anchor, positive), (anchor, positive, negative) or (anchor, positive, negative_1, ...,
    negative_n); no labels. Use ``BatchSamplers.NO_DUPLICATES``.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d); has a ``tokenizer``.
        guide: Another such model. If its vocabulary differs or its ``max_seq_length`` is smaller, the model's
            tokens are decoded and tokenised again for it.
        temperature: Divides the cosines; more than 0.
        margin_strategy: ``"absolute"``: candidates above the positive's guided similarity minus the margin
            are left out; ``"relative"``: minus the margin times its absolute value.
        margin: See above.
        contrast_anchors: Whether other anchors are candidates.
        contrast_positives: Whether positives are compared with other positives.
        gather_across_devices: Whether the rows of all ranks are candidates.

    Raises:
        ValueError: If either model has no tokenizer, or an option is out of range.

    References:
        Solatorio 2024, arXiv:2402.16829; margins: Moreira et al. 2024, arXiv:2407.15831.
    """

    text_columns: tuple[int, int | None] = (2, None)
    in_batch_negatives: bool = True
    shown: tuple[str, ...] = (
        "temperature",
        "margin_strategy",
        "margin",
        "contrast_anchors",
        "contrast_positives",
        "gather_across_devices",
    )
    cites: tuple[str, ...] = ("solatorio2024gistembed",)

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        temperature: float = 0.01,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, gather_across_devices)
        check_choice("margin_strategy", margin_strategy, ("absolute", "relative"))
        if not temperature > 0:
            raise ValueError(f"temperature must be more than 0; got {temperature}.")
        # In a tuple it is no submodule, so it is neither trained, saved nor set to training mode.
        self._guide = (guide,)
        self.must_retokenize = _must_retokenize(model, guide)
        self.temperature = temperature
        self.margin_strategy = margin_strategy
        self.margin = margin
        self.contrast_anchors = contrast_anchors
        self.contrast_positives = contrast_positives

    @property
    def guide(self) -> Any:
        """The guide model."""
        return self._guide[0]

    def columns(self, features: Sequence[Mapping[str, Any]], labels: Tensor | None = None) -> Columns:
        """The columns, with the guide's embeddings."""
        columns = super().columns(features, labels)
        return replace(columns, guide=self.pooled(self._embed_with_guide(features)))

    @torch.no_grad()
    def _embed_with_guide(self, features: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        guide, device = self.guide, features[0]["input_ids"].device
        if guide is not self.model:
            guide.eval().to(device)
        if self.must_retokenize:
            tokens = [with_host_facts(guide.tokenize(self._texts(column))) for column in features]
            features = [batch_to_device(column, device) for column in tokens]
        if not takes_host_facts(guide):
            features = list(map(without_host_facts, features))
        budget = self.token_budget or default_budget(guide)
        run = self._runner() if guide is self.model else run_plainly
        return embed_columns(guide, features, budget, run=run)

    def _texts(self, features: Mapping[str, Any]) -> list[str]:
        tokenizer = tokenizer_of(self.model)
        assert tokenizer is not None  # checked when the loss was made
        return tokenizer.batch_decode(features["input_ids"], skip_special_tokens=True)

    def compute(self, columns: Columns) -> Tensor:
        """Mean cross entropy of this rank's anchors over the candidates that the guide keeps."""
        rows, width = len(columns.mine[0]), len(columns.pool[0]) * (len(columns.pool) + 1)
        return mean_in_tiles(lambda part: self._losses(columns, part), rows, width, self.tile_scores)

    def _losses(self, columns: Columns, rows: slice) -> Tensor:
        assert columns.guide is not None
        own = columns.own(rows)[:, None]
        scores, guided = _similarities(columns, rows), _similarities(columns.guide, rows)
        threshold = guided["positives"].gather(1, own)
        threshold = threshold - self.margin * (threshold.abs() if self.margin_strategy == "relative" else 1)
        kept = []
        for name, candidates in scores.items():
            if self._counts(name):
                # An anchor is never its own negative; the positive always counts.
                allowed = (guided[name] <= threshold).scatter(1, own, name == "positives")
                allowed = allowed if name != "negatives" else guided[name] <= threshold
                kept.append(candidates.masked_fill(~allowed, -torch.inf) / self.temperature)
        return torch.logsumexp(torch.cat(kept, dim=1), dim=1) - kept[0].gather(1, own)[:, 0]

    def _counts(self, name: str) -> bool:
        return {"anchors": self.contrast_anchors, "own positives": self.contrast_positives}.get(name, True)

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {"guide": model_name(self.guide), **super().get_config_dict()}


class CachedGISTEmbedLoss(GISTEmbedLoss):
    """:class:`GISTEmbedLoss` with a gradient cache: large batches in a mini-batch's memory.

    Args:
        model: As for the plain loss.
        guide: As for the plain loss.
        temperature: Divides the cosines; more than 0.
        mini_batch_size: Most rows per call of the model, counted over all columns; without padding, and on
            accelerators, as many tokens as so many of the longest rows have.
        mini_batch_num_tokens: Most padded tokens per call, instead of rows.
        show_progress_bar: Whether to show progress within a step.
        margin_strategy: As for the plain loss.
        margin: As for the plain loss.
        contrast_anchors: Whether other anchors are candidates.
        contrast_positives: Whether positives are compared with other positives.
        gather_across_devices: Whether the rows of all ranks are candidates.

    References:
        Gao et al. 2021, arXiv:2101.06983.
    """

    shown: tuple[str, ...] = (*GISTEmbedLoss.shown, "mini_batch_size", "mini_batch_num_tokens")
    cites: tuple[str, ...] = (*GISTEmbedLoss.cites, "gao2021scaling")

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        temperature: float = 0.01,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(
            model,
            guide,
            temperature,
            margin_strategy,
            margin,
            contrast_anchors,
            contrast_positives,
            gather_across_devices,
        )
        self.cache(mini_batch_size, mini_batch_num_tokens, show_progress_bar)


def _similarities(columns: Columns, rows: slice) -> dict[str, Tensor]:
    """Cosines of some rows with each kind of candidate in the pool, positives first."""
    anchors, positives = columns.mine[0][rows], columns.mine[1][rows]
    scores = {
        "positives": cos_sim(anchors, columns.pool[1]),
        "anchors": cos_sim(anchors, columns.pool[0]),
        "own positives": cos_sim(positives, columns.pool[1]),
    }
    if len(columns.pool) > 2:
        scores["negatives"] = cos_sim(anchors, torch.cat(columns.pool[2:]))
    return {name: at_least_float32(score) for name, score in scores.items()}


def _must_retokenize(model: nn.Module, guide: nn.Module) -> bool:
    first = []
    for name, part in (("model", model), ("guide", guide)):
        known = vocabularies(part)
        if not known:
            raise ValueError(
                "GISTEmbedLoss needs a model and a guide with a tokenizer that has a vocabulary; the "
                f"{name}, {type(part).__name__}, has none."
            )
        if any(other != known[0] for other in known[1:]):
            raise ValueError(
                f"GISTEmbedLoss hands texts from the model to the guide as tokens; the {name} has a Router "
                "whose rows have different vocabularies. Give its rows one tokenizer, or choose another "
                "loss."
            )
        first.append(known[0])
    longest = [max_seq_length(part) or torch.inf for part in (model, guide)]
    return first[0] != first[1] or longest[1] < longest[0]
