"""From hyperparameters to a trial: the trainer's own run with some of its arguments replaced."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import set_seed
from transformers.trainer_utils import number_of_arguments

from ray_st.runtime.cluster.pickled import copy_of
from ray_st.study.drawn_trial import DrawnTrial
from ray_st.study.trial_arguments import with_values
from ray_st.training.callbacks.trackers import TrialRuns
from ray_st.training.data.run_data import RunData
from ray_st.training.data.sampler_factory import SamplerMethods
from ray_st.training.family import Family
from ray_st.training.loss_factory import make_losses
from ray_st.training.strategies.step_module import LossOrLosses
from ray_st.training.trainer_spec import TrainerSpec, Trial
from ray_st.training_args import SentenceTransformerTrainingArguments


@dataclass(frozen=True)
class TrialFactory:
    """What all trials of a search share.

    Args:
        description: The driver's trainer, without model and loss.
        family: What kind of model it is.
        model_init: Makes the model; takes a trial or nothing.
        loss_init: Makes the loss, or one for each dataset by name: functions of the model, or of the model
            and ``trial``.
        base: The model that ``model_init`` makes if it does not depend on the trial; otherwise None.
        train_dataset: The training data.
        eval_dataset: The evaluation data.
        samplers: The trainer's methods that make samplers.
        rungs: Number of evenly spaced evaluations of a trial; None if the arguments say when to evaluate.
        data_init: Makes a trial's training data, in place of ``train_dataset``; None if all trials share
            them.
        search: The search's name.
        of_loss: Hyperparameters that the loss initialiser reads and nothing else does.
        attention: The attentions, of the models that were made on trial, that nodes may lack.
        fixed: Training arguments that every trial has instead of the trainer's.
    """

    description: TrainerSpec
    family: Family
    model_init: Callable[..., Any]
    loss_init: Any
    base: Any
    train_dataset: Any
    eval_dataset: Any
    samplers: SamplerMethods
    rungs: int | None = None
    data_init: Callable[[DrawnTrial], Any] | None = None
    search: str = ""
    of_loss: frozenset[str] = frozenset()
    attention: frozenset[str] = frozenset()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> SentenceTransformerTrainingArguments:
        """The training arguments of the driver's trainer."""
        args: SentenceTransformerTrainingArguments = self.description.options["args"]
        return args

    def __call__(self, number: int, values: Mapping[str, Any], name: str = "") -> Trial:
        """Makes a trial.

        Args:
            number: Its number.
            values: Its hyperparameters.
            name: What the user calls it.

        Raises:
            ValueError: If the arguments, the model or the loss reject the hyperparameters.
        """
        trial = DrawnTrial(number, values)
        args = self.args(values, name or f"{self.search}-{number}")
        set_seed(args.seed)
        model = copy_of(self.base) if self.base is not None else call_model_init(self.model_init, trial)
        loss = make_losses(self.loss_init, model, self.family.default_loss, anew=True, trial=trial)
        given = self.description.options
        # A trial may change these; the next one in its process must not see it.
        callbacks, attributes = copy.deepcopy((given["callbacks"], self.description.attributes))
        callbacks = [*callbacks, TrialRuns(self.search, values)]
        description = dataclasses.replace(
            self.description,
            options={**given, "model": model, "args": args, "loss": loss, "callbacks": callbacks},
            attributes=attributes,
        )
        return Trial(self._data(args, model, loss, attributes, trial), description)

    def args(self, values: Mapping[str, Any], name: str = "") -> SentenceTransformerTrainingArguments:
        """A trial's training arguments."""
        fixed: dict[str, Any] = {"disable_tqdm": True}
        if self.rungs == 1:
            fixed["eval_strategy"] = "no"  # the end is evaluated anyway
        elif self.rungs is not None:
            fixed |= {"eval_strategy": "steps", "eval_steps": 1 / self.rungs}
        if name:
            fixed["run_name"] = name
        if self.given.save_total_limit is None:
            fixed["save_total_limit"] = 1
        return with_values(self.given, {**fixed, **self.fixed, **values})

    def _data(
        self,
        args: SentenceTransformerTrainingArguments,
        model: nn.Module,
        loss: LossOrLosses,
        attributes: Mapping[str, Any],
        trial: DrawnTrial,
    ) -> RunData:
        train_dataset = self.data_init(trial) if self.data_init else self.train_dataset
        around = {"model": model, "loss": loss, "train_dataset": train_dataset}
        return RunData(
            family=self.family,
            args=args,
            model=model,
            loss=loss,
            train_dataset=train_dataset,
            eval_dataset=self.eval_dataset,
            collator=self.description.options["data_collator"],
            samplers=dataclasses.replace(
                self.samplers, args=args, attributes=attributes, trainer=None, surroundings=around
            ),
        )


def call_model_init(model_init: Callable[..., Any], trial: DrawnTrial) -> Any:
    """Makes a trial's model.

    Raises:
        ValueError: If it returns None.
    """
    model = model_init() if number_of_arguments(model_init) == 0 else model_init(trial)
    if model is None:
        raise ValueError("model_init returned None; it must return the model.")
    return model
