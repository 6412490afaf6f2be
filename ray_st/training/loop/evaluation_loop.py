"""Evaluation shared by all ranks: the loss over evaluation datasets, and the evaluator."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ray_st.evaluation.metric_names import PREFIX, prefixed
from ray_st.evaluation.sentence_evaluator import SINGLE_METRIC
from ray_st.training.data.step_loader import BATCH, Inputs
from ray_st.training.distributed import collectives
from ray_st.training.distributed.evaluator_team import together
from ray_st.training.loop.predictions import Predictions, Taken, joined, listed
from ray_st.training.loop.train_step import SteppingTrainer


class EvaluatingTrainer(SteppingTrainer):
    """Evaluates in a worker; every rank must call it, and all get the same figures."""

    _evaluator_found: Mapping[str, Any] | None = None  # in an evaluation of several datasets

    def evaluation_loop(
        self,
        dataloader: DataLoader[Inputs],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The loss over an evaluation dataset, what ``compute_metrics`` makes of its embeddings, then the evaluator.

        All of it is shared by all ranks.
        """
        with self.whole_weights():
            return self._evaluated(dataloader, description, prediction_loss_only, metric_key_prefix)

    def _evaluated(
        self,
        dataloader: DataLoader[Inputs],
        description: str,
        prediction_loss_only: bool | None,
        metric_key_prefix: str,
    ) -> EvalLoopOutput:
        self._before_evaluation()
        if prediction_loss_only is None:
            prediction_loss_only = self.args.prediction_loss_only
        taken = None if prediction_loss_only else self._taken(wanted=description == "Prediction")
        loss, rows = self._evaluation_loss(dataloader, taken)
        metrics = {f"{metric_key_prefix}_loss": loss}
        if taken is not None:
            metrics.update(_prefixed(taken.figures(), metric_key_prefix))
        prefix = self._evaluator_prefix(metric_key_prefix)
        if self.evaluator is not None and prefix is not None:
            metrics.update(self._evaluator_metrics(prefix))
        if taken is None:
            return EvalLoopOutput(np.zeros(0), None, metrics, rows)
        found = taken.whole()
        return EvalLoopOutput(found.predictions, found.label_ids, metrics, rows)

    def _taken(self, wanted: bool) -> Taken:
        args = self.args
        join = joined if args.eval_do_concat_batches else listed
        keeps = wanted or not args.batch_eval_metrics
        return Taken(self.compute_metrics, args.batch_eval_metrics, keeps, join)

    def _before_evaluation(self) -> None:
        """Casts the model where all of an evaluation is to be in half precision; not while training."""
        turn = getattr(self.optimizer, "eval", None)  # schedule-free optimizers have two kinds of weights
        if callable(turn):
            turn()
        kinds = {"fp16_full_eval": torch.float16, "bf16_full_eval": torch.bfloat16}
        for name, kind in kinds.items():
            if getattr(self.args, name) and not self.is_in_train:
                self.model.to(dtype=kind, device=self.args.device)

    def _evaluator_prefix(self, prefix: str) -> str | None:
        """What comes before the evaluator's metrics with a dataset's; None where they come with another's.

        While training they come once, with the first of the named datasets and under names that have no dataset's in
        them; at other times with each dataset. That is the peer's rule, which ``metric_for_best_model`` follows.

        Args:
            prefix: Comes before the dataset's own metrics.
        """
        names = list(self.here.evals)
        if not self.is_in_train or names == [""] or not prefix.startswith(f"{PREFIX}_"):
            return prefix
        return PREFIX if prefix == f"{PREFIX}_{names[0]}" else None

    @torch.no_grad()
    def _evaluation_loss(
        self, dataloader: DataLoader[Inputs], taken: Taken | None = None
    ) -> tuple[float, int]:
        """Mean loss over all batches, each weighted by its rows, and the number of rows.

        Args:
            dataloader: The batches.
            taken: Takes in the predictions of each step, if they are wanted.
        """
        self.bind_losses()
        predict = Predictions(self.preprocess_logits_for_metrics, self.args.include_for_metrics)
        parts, self._parts = self._parts, None  # those of an evaluation are not logged as training's
        was_training = self.model.training
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for inputs in dataloader:
            inputs.pop(BATCH, None)
            shares = self._take_shares(inputs)
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(self.model, inputs)
                if taken is not None:
                    taken.add(predict(self.model, *self.collect_features(inputs), loss, shares))
            rows = shares[self.here.world.rank]
            totals += torch.tensor([float(loss) * rows if rows else 0.0, rows], device=totals.device)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        self.model.train(was_training)
        self._parts = parts
        total, rows = collectives.sum_over_ranks(totals).tolist()
        return total / rows, int(rows)

    def _evaluator_metrics(self, prefix: str) -> dict[str, float]:
        if not self._evaluator_found:
            found = self._call_evaluator()
            if self._evaluator_found is None:
                return _prefixed(found, prefix)
            self._evaluator_found = found
        return _prefixed(self._evaluator_found, prefix)

    def _call_evaluator(self) -> Mapping[str, Any]:
        assert self.evaluator is not None
        world = self.here.world
        was_training = self.model.training
        self.model.eval()
        output_path = self._evaluator_folder() if world.is_first else None
        with together(self.model, world):
            found = self.evaluator(
                self.model,
                output_path=output_path,
                epoch=self.state.epoch if self.state.epoch is not None else -1,
                steps=self.state.global_step,
            )
        self.model.train(was_training)
        return found if isinstance(found, Mapping) else {SINGLE_METRIC: found}

    def _evaluator_folder(self) -> str:
        folder = Path(str(self.args.output_dir)) / "eval"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates the loss on the evaluation datasets and runs the evaluator; every rank must call it.

        Args:
            eval_dataset: Name of one of several datasets; None for all.
            ignore_keys: Part of transformers' interface.
            metric_key_prefix: Put before the names of figures.

        Returns:
            Figures by name: ``eval_loss`` (``eval_NAME_loss`` for named datasets), the evaluator's, and speed.
        """
        if self.here.evals:
            return self._evaluate_datasets(eval_dataset, ignore_keys, metric_key_prefix)
        started = time.time()
        self._before_evaluation()
        with self.whole_weights():
            metrics = self._evaluator_metrics(metric_key_prefix) if self.evaluator is not None else {}
        metrics[f"{metric_key_prefix}_runtime"] = time.time() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_datasets(
        self, eval_dataset: Any, ignore_keys: list[str] | None, prefix: str
    ) -> dict[str, float]:
        if eval_dataset is not None:
            return super().evaluate(eval_dataset, ignore_keys, prefix)
        self._evaluator_found = {}  # the model is the same for all datasets: its evaluator runs once
        try:
            return super().evaluate(None, ignore_keys, prefix)
        finally:
            self._evaluator_found = None


def _prefixed(figures: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {prefixed(key, prefix): float(value) for key, value in figures.items()}
