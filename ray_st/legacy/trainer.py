"""The trainer behind ``fit``: batches, optimizer, schedule and evaluations as older scripts ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.legacy.keeping import figures_folder, score_of
from ray_st.legacy.objectives import Order
from ray_st.legacy.schedules import make_optimizer, make_scheduler
from ray_st.models.fitting import FitOptions
from ray_st.trainer import SentenceTransformerTrainer
from ray_st.training.parts import named
from ray_st.training.step import Step


class FitTrainer(SentenceTransformerTrainer):
    """A trainer over objectives.

    Args:
        orders: For each dataset, how its rows are put into batches.
        options: Optimizer, schedule and output folder.
        **arguments: Those of the trainer.
    """

    def __init__(self, orders: Mapping[str, Order], options: FitOptions, **arguments: Any) -> None:
        self.orders = orders  # the constructor describes the run, to check it
        super().__init__(**arguments)
        # The callback is called on the driver; workers may not be able to load what it holds.
        self.options = replace(options, evaluator=None, callback=None)
        output_path = options.output_path  # a worker has another working folder
        self.output_path = None if output_path is None else str(Path(output_path).absolute())

    def _maker(self, source: Any, batch_size: int) -> Order:
        return next(self.orders[name] for name, rows in named(self.train_dataset).items() if rows is source)

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """The optimizer that the options name, over the model and what the losses own."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(Step(self.model, self.loss), self.options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """The schedule that the options name."""
        options = self.options
        self.lr_scheduler = make_scheduler(
            optimizer or self.create_optimizer(), options.scheduler, options.warmup_steps, num_training_steps
        )
        return self.lr_scheduler

    def _evaluator_folder(self) -> str:
        return figures_folder(self.output_path) or super()._evaluator_folder()


class Evaluations(TrainerCallback):
    """Asks for evaluations, and tells the driver their scores and, if it wants them, the weights.

    Args:
        evaluator: What is run; names the figure that is the score.
        every: Steps between two evaluations; 0 for the ends of epochs only.
        epoch_steps: Steps of an epoch; None where it ends with the data.
        best: Calls a method of the driver's :class:`~ray_st.legacy.keeping.Best` by its name.
    """

    def __init__(self, evaluator: Any, every: int, epoch_steps: int | None, best: Callable[..., Any]) -> None:
        self._evaluator, self._every, self._epoch_steps, self._best = evaluator, every, epoch_steps, best
        self._latest = -1

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for an evaluation where one is due."""
        due = [steps for steps in (self._every, self._epoch_steps) if steps]
        if any(state.global_step % steps == 0 for steps in due):
            control.should_evaluate = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for an evaluation unless there was one at this step."""
        if self._epoch_steps is None and state.global_step != self._latest:
            control.should_evaluate = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Tells the driver."""
        self._latest = state.global_step
        if not state.is_world_process_zero:
            return
        figures = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        plain = figures.get("evaluator")  # of an evaluator that returns a number
        score = score_of(self._evaluator, figures if plain is None else plain)
        if self._best("hear", score, state.epoch, state.global_step):
            weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
            self._best("take", weights, model.model_card_data)
