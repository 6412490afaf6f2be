"""What a model predicts for the rows of a dataset: the embedding of each text column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction

from ray_st.training.distributed import collectives
from ray_st.util.host_facts import PAIR_COUNTS

Preprocess = Callable[[Any, Tensor | None], Any]
Output = Callable[[Any, Sequence[Mapping[str, Any]]], tuple[Tensor, ...]]
Metrics = Mapping[str, float]
Join = Callable[[Sequence[EvalPrediction]], EvalPrediction]
PADDING = -100


class Predictions:
    """Collects a step's predictions for the rows of all ranks, in order; every rank must call it.

    Args:
        output: Computes the model's outputs for a step's features.
        preprocess: Called with a step's tuple of embeddings and its labels; returns the tensor, or tuple of
            tensors, to keep instead. It must have one entry per row of the step.
        included: What else to keep: ``"inputs"``, the token ids of each text column; ``"loss"``, for each row
            the loss of its rank's share of the step.
    """

    def __init__(
        self, output: Output, preprocess: Preprocess | None = None, included: Collection[str] = ()
    ) -> None:
        self._output, self._preprocess, self._included = output, preprocess, included

    def __call__(
        self,
        model: nn.Module,
        features: Sequence[Mapping[str, Any]],
        labels: Tensor | None,
        loss: Tensor,
        shares: Sequence[int],
    ) -> EvalPrediction:
        """The predictions of a step.

        Args:
            model: The model.
            features: Features of each text column.
            labels: (rows,) or None.
            loss: Loss of this rank's rows.
            shares: Number of rows of each rank; any further rows are fillers.
        """
        found: Any = self._output(model, features)
        rows = len(found[0])
        if self._preprocess is not None:
            found = self._preprocess(found, labels)
        kept = isinstance(found, Tensor)
        gather = _gathered_lists if PAIR_COUNTS in features[0] else _gathered
        return _made(
            predictions=gather(found, shares) if kept else tuple(gather(part, shares) for part in found),
            label_ids=None if labels is None else gather(labels, shares),
            inputs=tuple(_token_ids(part, shares) for part in features)
            if "inputs" in self._included
            else None,
            losses=_gathered(loss.detach().repeat(rows), shares) if "loss" in self._included else None,
        )


def joined(steps: Sequence[EvalPrediction]) -> EvalPrediction:
    """The predictions of all steps as one: arrays, or tuples of arrays, of all rows."""
    return _each_field(steps, _concatenated)


def listed(steps: Sequence[EvalPrediction]) -> EvalPrediction:
    """The predictions of all steps, each field a list with one entry per step."""
    return _each_field(steps, list)


class Taken:
    """Collects the predictions of an evaluation and the metrics that ``compute_metrics`` computes from them.

    Args:
        compute: ``compute_metrics``, or None.
        stepwise: Whether it is called for each step and returns the metrics at the last one
            (``batch_eval_metrics``); otherwise it is called once, with all rows.
        keeps: Whether to keep the predictions of all rows.
        join: Combines the predictions of all steps: :func:`joined` or :func:`listed`.
    """

    def __init__(
        self, compute: Callable[..., Metrics] | None, stepwise: bool, keeps: bool, join: Join
    ) -> None:
        self._compute, self._stepwise, self._keeps, self._join = compute, stepwise, keeps, join
        self._steps: list[EvalPrediction] = []
        self._newest: EvalPrediction | None = None

    def add(self, step: EvalPrediction) -> None:
        """Adds one step."""
        if self._stepwise and self._compute is not None and self._newest is not None:
            self._compute(self._newest, compute_result=False)
        self._newest = step
        if self._keeps:
            self._steps.append(step)

    def metrics(self) -> Metrics:
        """The metrics over all steps."""
        if self._compute is None:
            return {}
        return (
            self._compute(self._newest, compute_result=True)
            if self._stepwise
            else self._compute(self.whole())
        )

    def whole(self) -> EvalPrediction:
        """The predictions of all rows, if they were kept."""
        return self._join(self._steps) if self._steps else _made(predictions=np.zeros(0), label_ids=None)


def _each_field(steps: Sequence[EvalPrediction], join: Callable[[list[Any]], Any]) -> EvalPrediction:
    def field(values: list[Any]) -> Any:
        return None if values[0] is None else join(values)

    return _made(
        predictions=field([step.predictions for step in steps]),
        label_ids=field([step.label_ids for step in steps]),
        inputs=field([step.inputs for step in steps]),
        losses=field([step.losses for step in steps]),
    )


def _made(**fields: Any) -> EvalPrediction:
    return EvalPrediction(**fields)  # its annotations assume one column and labels


def _concatenated(steps: list[Any]) -> Any:
    if isinstance(steps[0], tuple):
        return tuple(_stacked(parts) for parts in zip(*steps, strict=True))
    return _stacked(steps)


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates rows; token ids of unequal length are padded with -100, scores of lists with NaN."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    tables = [part[:, None] if part.ndim == 1 else part for part in parts]
    longest = max(part.shape[1] for part in tables)
    fill = np.nan if parts[0].dtype.kind == "f" else PADDING
    widths = [((0, 0), (0, longest - part.shape[1])) for part in tables]
    return np.concatenate(
        [np.pad(part, width, constant_values=fill) for part, width in zip(tables, widths, strict=True)]
    )


def _gathered(rows: Tensor, shares: Sequence[int]) -> np.ndarray:
    kept: np.ndarray = collectives.gather_rows(rows.detach(), shares).float().cpu().numpy()
    return kept if rows.is_floating_point() else kept.astype(np.int64)


def _gathered_lists(rows: Tensor, shares: Sequence[int]) -> np.ndarray:
    """As :func:`_gathered`, of rows that may be longer on one rank than on another."""
    mine = rows[: shares[collectives.current_world().rank]].detach()
    kept = mine.float().cpu().numpy() if rows.is_floating_point() else mine.cpu().numpy()
    return _stacked(collectives.gather_objects(kept))


def _token_ids(features: Mapping[str, Any], shares: Sequence[int]) -> np.ndarray:
    ids = features.get("input_ids")
    if not isinstance(ids, torch.Tensor):
        raise ValueError(
            'include_for_metrics=["inputs"] keeps token ids, and the model\'s inputs have none: they are '
            f"{sorted(features)}. Leave it out."
        )
    mine = shares[collectives.current_world().rank]
    return _stacked(collectives.gather_objects(ids[:mine].cpu().numpy()))
