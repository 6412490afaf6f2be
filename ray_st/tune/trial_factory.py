"""From drawn parameters to a trial's trainer: the run of the search with other hyperparameters."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import set_seed
from transformers.trainer_utils import number_of_arguments

from ray_st.study.drawn_trial import DrawnTrial
from ray_st.study.trial_arguments import with_values
from ray_st.training.callbacks.trial_runs import TrialRuns
from ray_st.training.checkpoint.retuning import retune, settings_of
from ray_st.training.loss_factory import make_losses
from ray_st.training.trainer_spec import TrainerSpec


class Reporting:
    """Mixed into a trial's trainer: tells of each evaluation.

    Attributes:
        on_evaluated: Called on every rank with the trainer and the figures.
    """

    on_evaluated: Callable[[Any, dict[str, float]], None] | None = None

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        # transformers calls this once an evaluation, however many datasets it has.
        if self.on_evaluated is not None:
            self.on_evaluated(self, metrics)


class ReportingLate(Reporting):
    """Tells of an evaluation when all else of the step is done; takes its arguments from now, not from the checkpoint.

    So a trial that waits has a checkpoint of what it told of, and one of a population goes on from another's with other
    hyperparameters. An evaluation before the first step is not told of.
    """

    _figures: dict[str, float] | None = None

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        self._figures = metrics

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._figures = None
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]
        self._tell()

    def _tell(self) -> None:
        if self._figures is not None and self.on_evaluated is not None:
            self.on_evaluated(self, self._figures)

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        settings = settings_of(self.optimizer)
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            retune(self.optimizer, self.lr_scheduler, settings)


@dataclass(frozen=True)
class Trial:
    """A trial, ready to run.

    Args:
        shell: Makes its data parts.
        description: Makes its trainer at a place.
    """

    shell: Any
    description: TrainerSpec


@dataclass(frozen=True)
class TrialFactory:
    """What all trials of a search share.

    Args:
        description: The driver's trainer, without model and loss.
        model_init: Makes the model; takes a trial or nothing.
        loss_init: Makes the loss, or one for each dataset by name: functions of the model, or of
            the model and ``trial``.
        base: The model that ``model_init`` makes if it does not depend on the trial; None if it does.
        train_dataset: The training data.
        eval_dataset: The evaluation data.
        rungs: Evaluations of a trial, evenly; None where the arguments say when.
        data_init: Makes a trial's training data, in place of ``train_dataset``; None where all trials share them.
        search: The search's name.
        of_loss: Parameters that the loss initialiser reads and nothing else does.
        rests: Whether a trial may wait after an evaluation, and go on from its checkpoint with other parameters.
    """

    description: TrainerSpec
    model_init: Callable[..., Any]
    loss_init: Any
    base: Any
    train_dataset: Any
    eval_dataset: Any
    rungs: int | None = None
    data_init: Callable[[DrawnTrial], Any] | None = None
    search: str = ""
    of_loss: frozenset[str] = frozenset()
    rests: bool = False

    def __call__(self, number: int, values: Mapping[str, Any], name: str = "") -> Trial:
        """Makes a trial.

        Args:
            number: Its number.
            values: Its parameters.
            name: What the user calls it.

        Raises:
            ValueError: If the arguments, the model or the loss refuse the parameters.
        """
        trial = DrawnTrial(number, values)
        args = self.args(values, name or f"{self.search}-{number}")
        set_seed(args.seed)
        model = copy.deepcopy(self.base) if self.base is not None else call_model_init(self.model_init, trial)
        loss = make_losses(self.loss_init, model, anew=True, trial=trial)
        given = self.description.options
        # What a trial does to these must not be seen by the next one in its process.
        callbacks, extras = copy.deepcopy((given["callbacks"], self.description.extras))
        callbacks = [*callbacks, TrialRuns(self.search, values)]
        description = dataclasses.replace(
            self.description,
            kind=reporting(self.description.kind, ReportingLate if self.rests else Reporting),
            options={**given, "model": model, "args": args, "loss": loss, "callbacks": callbacks},
            extras=extras,
        )
        return Trial(self._shell(args, model, loss, trial), description)

    def args(self, values: Mapping[str, Any], name: str = "") -> Any:
        """A trial's training arguments."""
        fixed: dict[str, Any] = {"disable_tqdm": True}
        if self.rungs == 1:
            fixed["eval_strategy"] = "no"  # the end is evaluated anyhow
        elif self.rungs is not None:
            fixed |= {"eval_strategy": "steps", "eval_steps": 1 / self.rungs}
        if name:
            fixed["run_name"] = name
        given = self.description.options["args"]
        if given.save_total_limit is None:
            fixed["save_total_limit"] = 1
        return with_values(given, {**fixed, **values})

    def _shell(self, args: Any, model: Any, loss: Any, trial: DrawnTrial) -> Any:
        """A trainer as far as its data parts need one."""
        shell = object.__new__(self.description.kind)
        shell.__dict__.update(self.description.extras)
        shell.args, shell.model, shell.loss = args, model, loss
        shell.train_dataset = self.data_init(trial) if self.data_init else self.train_dataset
        shell.eval_dataset = self.eval_dataset
        shell.evaluator = self.description.options["evaluator"]
        shell.user_collator = self.description.options["data_collator"]
        shell._managed = frozenset(shell.__dict__) - set(self.description.extras) | {"_managed"}
        return shell


def reporting(kind: type[Any], how: type[Reporting] = Reporting) -> type[Any]:
    """A trainer's class that tells of its evaluations."""
    return type(kind.__name__, (how, kind), {})


def call_model_init(model_init: Callable[..., Any], trial: DrawnTrial) -> Any:
    """Makes a trial's model.

    Raises:
        ValueError: If it makes none.
    """
    model = model_init() if number_of_arguments(model_init) == 0 else model_init(trial)
    if model is None:
        raise ValueError("model_init returned None; it must return the model.")
    return model
