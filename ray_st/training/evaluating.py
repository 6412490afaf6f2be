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
from ray_st.training.batch import BATCH, SHARES, Inputs
from ray_st.training.stepping import SteppingTrainer
from ray_st.training.together import together


class EvaluatingTrainer(SteppingTrainer):
    """Evaluates in a worker; every rank must call it, and all get the same figures."""

    def evaluation_loop(
        self,
        dataloader: DataLoader[Inputs],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The loss over an evaluation dataset, then the evaluator, both shared by all ranks."""
        metrics: dict[str, float] = {}
        rows = 0
        if dataloader is not None:
            rows = len(dataloader.dataset)  # type: ignore[arg-type]
            metrics[f"{metric_key_prefix}_loss"] = self._evaluation_loss(dataloader)
        if self.evaluator is not None and self._is_first_of_several(metric_key_prefix):
            metrics.update(self._evaluator_metrics("eval" if len(self.here.evals) > 1 else metric_key_prefix))
        return EvalLoopOutput(np.zeros(0), None, metrics, rows)

    def _is_first_of_several(self, prefix: str) -> bool:
        """The evaluator runs once an evaluation, with the first of several datasets."""
        names = list(self.here.evals)
        return len(names) < 2 or prefix == f"eval_{names[0]}"

    @torch.no_grad()
    def _evaluation_loss(self, dataloader: DataLoader[Inputs]) -> float:
        """Mean loss over all batches, each weighted by its rows."""
        self.bind_losses()
        parts, self._parts = self._parts, None  # those of an evaluation are not logged as training's
        was_training = self.model.training
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for inputs in dataloader:
            shares = inputs.pop(SHARES)
            inputs.pop(BATCH)
            self._gather.share(shares)
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(self.model, inputs)
            rows = shares[self.here.world.rank]
            totals += torch.tensor([float(loss) * rows if rows else 0.0, rows], device=totals.device)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        self.model.train(was_training)
        self._parts = parts
        total, rows = collectives.sum_over_ranks(totals).tolist()
        return total / rows

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
        metrics = found if isinstance(found, Mapping) else {"evaluator": found}
        return {
            key if key.startswith(f"{prefix}_") else f"{prefix}_{key}": float(value)
            for key, value in metrics.items()
        }

    def _evaluator_folder(self) -> str:
        folder = Path(str(self.args.output_dir)) / "eval"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates the loss on the evaluation datasets and runs the evaluator; every rank must call it.

        Returns:
            Figures by name: ``eval_loss`` (``eval_NAME_loss`` for named datasets), the evaluator's, and speed.
        """
        started = time.time()
        if self.here.evals:
            return super().evaluate(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        metrics = self._evaluator_metrics(prefix) if self.evaluator is not None else {}
        metrics[f"{prefix}_runtime"] = time.time() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
