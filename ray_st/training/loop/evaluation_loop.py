"""Evaluation shared by all ranks: losses over evaluation datasets, prediction metrics, the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers.trainer_utils import EvalLoopOutput

from ray_st.evaluation.metric_names import PREFIX, prefixed
from ray_st.evaluation.sentence_evaluator import SINGLE_METRIC, SentenceEvaluator
from ray_st.evaluation.sequential import SequentialEvaluator
from ray_st.training.data.step_loader import BATCH, Inputs
from ray_st.training.distributed import collectives
from ray_st.training.distributed.evaluator_team import together
from ray_st.training.loop.predictions import Output, Predictions, Preprocess, Taken, joined, listed
from ray_st.training.loop.row_weights import RowShares
from ray_st.training.loop.train_step import LossMethods
from ray_st.training.strategies.step_module import LossOrLosses, losses_of
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.world import World

if TYPE_CHECKING:
    from ray_st.training.loop.hf_loop import HfLoop

Metrics = dict[str, float]
Evaluator = Callable[..., Any]
GivenEvaluator = Evaluator | list[SentenceEvaluator] | tuple[SentenceEvaluator, ...]
ComputeMetrics = Callable[..., Mapping[str, float]]


@dataclass(frozen=True)
class Moment:
    """When an evaluation takes place.

    Args:
        step: Global step.
        epoch: Passes over the training data, or None before the first.
        in_training: Whether it is part of a training run.
    """

    step: int
    epoch: float | None
    in_training: bool


class EvaluationReport(Protocol):
    """Receives the metrics of each evaluation, on every rank.

    Attributes:
        late: Whether it is called after the rest of the step, so that a checkpoint of the step can exist, and
            not for an evaluation before the first step. A trial that waits for others, or resumes from
            another trial's checkpoint, reports late and keeps its own hyperparameters instead of the
            checkpoint's.
    """

    late: bool

    def __call__(self, trainer: HfLoop, metrics: Mapping[str, float]) -> None:
        """Receives an evaluation's metrics."""


class EvaluationLoop:
    """Evaluates a model; every rank must call it, and all get the same metrics.

    Args:
        args: Training arguments.
        world: This rank and the number of ranks.
        names: Names of the evaluation datasets; a single one has the name "".
        methods: The trainer's methods.
        evaluator: Called with the model, or None.
        compute_metrics: Computes metrics from predictions, or None.
        output: Computes the model's output for an input, which is the prediction.
        preprocess: ``preprocess_logits_for_metrics``, or None.
        output_path: Returns the folder evaluators write to; called on the first rank.
        paired: Returns whether every rank has to take part in each call of the model.
    """

    def __init__(
        self,
        args: SentenceTransformerTrainingArguments,
        world: World,
        names: Sequence[str],
        methods: LossMethods,
        evaluator: Evaluator | None,
        compute_metrics: ComputeMetrics | None,
        output: Output,
        preprocess: Preprocess | None,
        output_path: Callable[[], str],
        paired: Callable[[], bool],
    ) -> None:
        self._args, self._world, self._names, self._methods = args, world, names, methods
        self._evaluator, self._compute_metrics = evaluator, compute_metrics
        self._predict = Predictions(output, preprocess, args.include_for_metrics)
        self._output_path, self._paired = output_path, paired
        self._of_all_datasets: Mapping[str, Any] | None = None

    @contextmanager
    def one_evaluator_run(self) -> Iterator[None]:
        """Within this context the evaluator runs only once, since the model is the same for all datasets."""
        self._of_all_datasets = {}
        try:
            yield
        finally:
            self._of_all_datasets = None

    def over_dataset(
        self,
        model: nn.Module,
        batches: Iterable[Inputs],
        shares: RowShares,
        prefix: str,
        moment: Moment,
        *,
        loss_only: bool,
        wants_predictions: bool,
        on_batch: Callable[[], None],
    ) -> EvalLoopOutput:
        """Computes the loss over a dataset, then the ``compute_metrics`` metrics, then runs the evaluator.

        Args:
            model: The model.
            batches: This rank's share of each batch.
            shares: Extracts the row counts from a batch.
            prefix: Prefix of the metric names.
            moment: When the evaluation takes place.
            loss_only: Whether predictions can be skipped.
            wants_predictions: Whether to return the predictions for all rows.
            on_batch: Called after each batch.
        """
        taken = None if loss_only else self._taken(wants_predictions)
        loss, rows = self._loss(model, batches, shares, taken, on_batch)
        metrics = {f"{prefix}_loss": loss}
        if taken is not None:
            metrics.update(with_prefix(taken.metrics(), prefix))
        of_evaluator = self._evaluator_prefix(prefix, moment)
        if self._evaluator is not None and of_evaluator is not None:
            metrics.update(self.evaluator_metrics(model, of_evaluator, moment))
        if taken is None:
            return EvalLoopOutput(np.zeros(0), None, metrics, rows)
        found = taken.whole()
        return EvalLoopOutput(found.predictions, found.label_ids, metrics, rows)

    def _taken(self, wanted: bool) -> Taken:
        args = self._args
        join = joined if args.eval_do_concat_batches else listed
        keeps = wanted or not args.batch_eval_metrics
        return Taken(self._compute_metrics, args.batch_eval_metrics, keeps, join)

    @torch.no_grad()
    def _loss(
        self,
        model: nn.Module,
        batches: Iterable[Inputs],
        shares: RowShares,
        taken: Taken | None,
        on_batch: Callable[[], None],
    ) -> tuple[float, int]:
        """Mean loss over all batches, each weighted by its rows, and the number of rows."""
        methods, was_training = self._methods, model.training
        model.eval()
        total, counted = torch.zeros((), dtype=torch.float64, device=self._args.device), 0
        for inputs in batches:
            inputs.pop(BATCH, None)
            counts = shares.take(inputs)
            inputs = methods.prepare(inputs)
            with methods.autocast():
                loss = methods.compute_loss(model, inputs)
                if taken is not None:
                    features, labels = methods.collect_features(inputs)
                    taken.add(self._predict(model, features, labels, loss, counts))
            rows = counts[self._world.rank]
            if rows:  # stays on the device: reading each batch's loss would wait for it
                total += (loss.detach().double() * rows).float().reshape(())
            counted += rows
            on_batch()
        model.train(was_training)
        totals = torch.stack([total, torch.full_like(total, counted)])
        whole, rows = collectives.sum_over_ranks(totals).tolist()
        return whole / rows, int(rows)

    def _evaluator_prefix(self, prefix: str, moment: Moment) -> str | None:
        """The prefix of the evaluator's metrics, or None if they are reported with another dataset.

        During training they are reported once, with the first named dataset and without a dataset name in the
        metric names; otherwise with each dataset. sentence-transformers does the same, and
        ``metric_for_best_model`` relies on it.
        """
        names = list(self._names)
        if not moment.in_training or names == [""] or not prefix.startswith(f"{PREFIX}_"):
            return prefix
        return PREFIX if prefix == f"{PREFIX}_{names[0]}" else None

    def evaluator_metrics(self, model: nn.Module, prefix: str, moment: Moment) -> Metrics:
        """The evaluator's metrics; every rank must call it.

        Args:
            model: The model.
            prefix: Prefix of the metric names.
            moment: When the evaluation takes place.
        """
        if self._evaluator is None:
            return {}
        found = self._of_all_datasets or self._run_evaluator(self._evaluator, model, moment)
        if self._of_all_datasets is not None:
            self._of_all_datasets = found
        return with_prefix(found, prefix)

    def _run_evaluator(self, evaluator: Evaluator, model: nn.Module, moment: Moment) -> Mapping[str, Any]:
        was_training = model.training
        model.eval()
        output_path = self._output_path() if self._world.is_first else None
        epoch = moment.epoch if moment.epoch is not None else -1
        with together(model, self._world, self._paired()):
            found = evaluator(model, output_path=output_path, epoch=epoch, steps=moment.step)
        model.train(was_training)
        return found if isinstance(found, Mapping) else {SINGLE_METRIC: found}


def as_one_evaluator(evaluator: GivenEvaluator | None) -> Evaluator | None:
    """What a user passed as ``evaluator``; several become one that calls each of them."""
    return SequentialEvaluator(list(evaluator)) if isinstance(evaluator, (list, tuple)) else evaluator


def place_for_evaluation(
    model: nn.Module, loss: LossOrLosses, args: SentenceTransformerTrainingArguments, moment: Moment
) -> None:
    """Moves model and losses to the device, and casts the model if it is evaluated in half precision.

    During training everything is in its place, and nothing is cast.
    """
    if moment.in_training:
        return
    for part in (model, *losses_of(loss).values()):
        part.to(args.device)
    if args.fp16_full_eval:
        model.to(dtype=torch.float16)
    if args.bf16_full_eval:
        model.to(dtype=torch.bfloat16)


def with_prefix(metrics: Mapping[str, Any], prefix: str) -> Metrics:
    """The metrics with a prefix added to each name where missing."""
    return {prefixed(key, prefix): float(value) for key, value in metrics.items()}
