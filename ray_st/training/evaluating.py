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

from ray_st.training import collectives
from ray_st.training.batch import BATCH, Inputs
from ray_st.training.predicting import Predictions, Taken, joined, listed
from ray_st.training.stepping import SteppingTrainer
from ray_st.training.together import together


class EvaluatingTrainer(SteppingTrainer):
    """Evaluates in a worker; every rank must call it, and all get the same figures."""

    _outer_prefix = "eval"

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
        if self.evaluator is not None and self._is_first_of_several(metric_key_prefix):
            several = len(self.here.evals) > 1
            metrics.update(self._evaluator_metrics(self._outer_prefix if several else metric_key_prefix))
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

    def _is_first_of_several(self, prefix: str) -> bool:
        """The evaluator runs once an evaluation, with the first of several datasets."""
        names = list(self.here.evals)
        return len(names) < 2 or prefix == f"{self._outer_prefix}_{names[0]}"

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
        return _prefixed(found if isinstance(found, Mapping) else {"evaluator": found}, prefix)

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
        if eval_dataset is None:
            self._outer_prefix = metric_key_prefix
        if self.here.evals:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        started = time.time()
        self._before_evaluation()
        with self.whole_weights():
            metrics = self._evaluator_metrics(metric_key_prefix) if self.evaluator is not None else {}
        metrics[f"{metric_key_prefix}_runtime"] = time.time() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _prefixed(figures: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        key if key.startswith(f"{prefix}_") else f"{prefix}_{key}": float(value)
        for key, value in figures.items()
    }
