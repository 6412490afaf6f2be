"""``SentenceTransformer.fit``: a run of the trainer, from loaders of examples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.legacy.best_model import Best, metrics_folder, score_of
from ray_st.legacy.objectives import FitObjective, Order, read_objectives
from ray_st.legacy.schedules import check_scheduler, make_optimizer, make_scheduler
from ray_st.model_trainer import ModelTrainer
from ray_st.models.fit_methods import FitOptions, Objectives
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.trainer import SentenceTransformerTrainer
from ray_st.training.strategies.step_module import Step
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.filesystems import upload_of


class FitRun(ModelTrainer):
    """A trainer over objectives; each kind of model has a subclass.

    Args:
        orders: How the rows of each dataset are put into batches.
        options: Optimizer, schedule and output folder.
        **arguments: Arguments of the trainer.
    """

    def __init__(self, orders: Mapping[str, Order], options: FitOptions, **arguments: Any) -> None:
        self.batch_orders = orders  # the base constructor already plans the run
        super().__init__(**arguments)
        # The callback is called on the driver; workers may be unable to unpickle it.
        self.options = replace(options, evaluator=None, callback=None)
        output_path = options.output_path  # a worker has another working directory
        self.output_path = None if output_path is None else str(Path(output_path).absolute())

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The optimizer that the options ask for, over the weights of the model and the losses."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(Step(self.model, self.loss), self.options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """The schedule that the options ask for."""
        options = self.options
        self.lr_scheduler = make_scheduler(
            optimizer or self.create_optimizer(), options.scheduler, options.warmup_steps, num_training_steps
        )
        return self.lr_scheduler

    def evaluator_output_path(self) -> str:
        """The folder that ``fit`` was given, or else the trainer's."""
        return metrics_folder(self.output_path) or super().evaluator_output_path()


class FitTrainer(FitRun, SentenceTransformerTrainer):
    """The trainer of an embedder's ``fit``."""


class Evaluations(TrainerCallback):
    """Requests evaluations, and sends the driver their scores and, for the best model, the weights.

    Args:
        objectives: Number of objectives; they take turns, a step each.
        options: The arguments of ``fit``.
        best: Calls a method of the driver's :class:`~ray_st.legacy.best_model.Best` by its name.
    """

    def __init__(self, objectives: int, options: FitOptions, best: Callable[..., Any]) -> None:
        self._evaluator, self._best = options.evaluator, best
        self._every, self._epoch_steps = options.evaluation_steps, (options.steps_per_epoch or 0) * objectives
        self._latest = -1

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Requests an evaluation if one is due."""
        if any(steps and state.global_step % steps == 0 for steps in (self._every, self._epoch_steps)):
            control.should_evaluate = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Requests an evaluation unless there was one at this step."""
        if not self._epoch_steps and state.global_step != self._latest:
            control.should_evaluate = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        model: SentenceTransformer | None = None,
        **kwargs: object,
    ) -> None:
        """Sends the score to the driver."""
        self._latest = state.global_step
        if not state.is_world_process_zero:
            return
        found = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        plain = found.get("evaluator")  # the result of an evaluator that returns a number
        score = score_of(self._evaluator, found if plain is None else plain)
        if self._best("record", score, state.epoch, state.global_step):
            assert model is not None
            weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
            self._best("load_and_save", weights, model.model_card_data)


_RUNS = "checkpoints"


def fit(
    model: SentenceTransformer,
    train_objectives: Objectives,
    options: FitOptions,
    scaling_config: object,
    run_config: object,
) -> None:
    """Trains a model on the cluster; see :meth:`ray_st.SentenceTransformer.fit`.

    Args:
        model: The model.
        train_objectives: Pairs of a loader and a loss.
        options: The other arguments.
        scaling_config: Ray Train's.
        run_config: Ray Train's.
    """
    fit_with(FitTrainer, model, train_objectives, options, scaling_config, run_config)


def fit_with(
    kind: type[FitRun],
    model: Any,
    train_objectives: Objectives,
    options: FitOptions,
    scaling_config: object,
    run_config: object,
) -> None:
    """Trains a model of any kind.

    Args:
        kind: The trainer of its kind.
        model: The model.
        train_objectives: Pairs of a loader and a loss.
        options: The other arguments.
        scaling_config: Ray Train's.
        run_config: Ray Train's.
    """
    check_scheduler(options.scheduler)
    objectives = read_objectives(train_objectives)
    trainer = make_trainer(model, objectives, options, scaling_config, run_config, kind)
    from ray_st.runtime.cluster.connection import connected
    from ray_st.runtime.cluster.driver_proxy import proxied

    with ExitStack() as until_the_end:
        if options.evaluator is not None:
            until_the_end.enter_context(connected())
            best = until_the_end.enter_context(proxied(Best(model, options)))
            trainer.add_callback(Evaluations(len(objectives), options, best))
        trainer.train(resume_from_checkpoint=resumes(trainer))
    if options.evaluator is None and options.output_path is not None:
        model.save(options.output_path)


def make_trainer(
    model: Any,
    objectives: Mapping[str, FitObjective],
    options: FitOptions,
    scaling_config: object = None,
    run_config: object = None,
    kind: type[FitRun] = FitTrainer,
) -> FitRun:
    """The trainer of a fit.

    Args:
        model: The model.
        objectives: What to train it on.
        options: The arguments of ``fit``.
        scaling_config: Ray Train's.
        run_config: Ray Train's.
        kind: The trainer of the model's kind.
    """
    sizes = {name: objective.order.batch_size for name, objective in objectives.items()}
    rounds = options.steps_per_epoch
    every = options.checkpoint_save_steps
    args = SentenceTransformerTrainingArguments(
        output_dir=options.checkpoint_path or _free_folder(),
        multi_dataset_batch_sampler="round_robin",
        router_mapping={name: dict(one.tasks) for name, one in objectives.items() if one.tasks} or None,
        dataset_batch_sizes=sizes,
        per_device_train_batch_size=max(sizes.values()),
        num_train_epochs=options.epochs,
        max_steps=rounds * len(objectives) * options.epochs if rounds else -1,
        max_grad_norm=options.max_grad_norm,
        fp16=options.use_amp,
        disable_tqdm=not options.show_progress_bar,
        save_strategy="no" if options.checkpoint_path is None else "steps" if every else "epoch",
        save_steps=every or 1,
        save_total_limit=options.checkpoint_save_total_limit or None,
    )
    return kind(
        {name: objective.order for name, objective in objectives.items()},
        options,
        model=model,
        args=args,
        train_dataset={name: objective.rows for name, objective in objectives.items()},
        loss={name: objective.loss for name, objective in objectives.items()},
        evaluator=options.evaluator,
        scaling_config=scaling_config,
        run_config=run_config,
    )


def _free_folder() -> str:
    """A new folder for a run without one: Ray stores its record of the run there."""
    names = (f"model_{number}" if number else "model" for number in count())
    # Ray deletes a job's upload; the user did not ask for these files, so a temporary folder will do.
    runs = Path(_RUNS) if upload_of(_RUNS) is None else Path(tempfile.gettempdir()) / f"ray_st-{_RUNS}"
    folders = (runs / name for name in names)
    return str(next(folder for folder in folders if not folder.exists() or not any(folder.iterdir())))


def resumes(trainer: FitRun) -> bool:
    """Whether to resume from a checkpoint: if requested, and there is one."""
    if not trainer.options.resume_from_checkpoint or trainer.options.checkpoint_path is None:
        return False
    from ray_st.runtime.train import launch

    return launch.store_of(trainer.run_config, str(trainer.args.output_dir)).newest() is not None
