"""A trainer's way to the workers and back: described on the driver, made again there, its results taken over."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState

from ray_st.training.loop import TrainingLoop
from ray_st.training.place import Place
from ray_st.training.progress import ProgressReport, write_line
from ray_st.training.run import Outcome
from ray_st.training.step import owned_by_loss

_OWN_CALLBACKS = (ProgressCallback, PrinterCallback, ProgressReport)


@dataclass(frozen=True)
class Description:
    """What a worker needs to make the driver's trainer again.

    Args:
        kind: The trainer's class; a user's subclass, maybe.
        init: The library's own constructor, which that class inherits.
        options: Its arguments, with their values of now.
        removed: Default callbacks that the user removed.
        extras: Attributes that a subclass set by itself.
    """

    kind: type[TrainingLoop]
    init: Callable[..., None]
    options: dict[str, Any]
    removed: list[type[TrainerCallback]]
    extras: dict[str, Any]

    def rebuild(self, place: Place) -> TrainingLoop:
        """Makes the trainer at a worker's place.

        The subclass's own ``__init__`` is not called, as its arguments are not known; the attributes that it set are
        restored instead.
        """
        args = copy.copy(self.options["args"])
        args.settle(str(place.store.local))
        trainer = object.__new__(self.kind)
        trainer.place = place
        self.init(trainer, **{**self.options, "args": args})
        for callback in (*self.removed, ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(ProgressReport(place.open_bar, write_line))
        trainer.__dict__.update(self.extras)
        return trainer


def user_callbacks(trainer: TrainingLoop, defaults: list[type[TrainerCallback]]) -> list[TrainerCallback]:
    """The callbacks that the user gave or added.

    Args:
        trainer: The trainer.
        defaults: Types of the callbacks that transformers adds by itself.
    """
    return [
        callback
        for callback in trainer.callback_handler.callbacks
        if type(callback) not in defaults and not isinstance(callback, _OWN_CALLBACKS)
    ]


def train_task(trainer: Any, resume_from: str | None) -> Outcome:
    """Trains in a worker and packs what the driver needs."""
    result = trainer.train(resume_from_checkpoint=resume_from)
    owned = owned_by_loss(trainer.model, trainer.loss)
    return Outcome(
        result=result,
        state=json.dumps(dataclasses.asdict(trainer.state)),
        model={name: tensor.detach().cpu() for name, tensor in trainer.model.state_dict().items()},
        loss={name: tensor.detach().cpu() for name, tensor in owned.items()},
        callbacks=tuple(_sendable(callback.__dict__) for callback in trainer.own_callbacks()),
        card=getattr(trainer.model, "model_card_data", None),
    )


def _sendable(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes that can travel: an open file or a lock in a callback must not cost a trained model."""
    sendable = {}
    for name, value in attributes.items():
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, TypeError, AttributeError):
            write_line(
                f"a callback's attribute {name!r} ({type(value).__name__}) cannot be sent to the driver"
            )
        else:
            sendable[name] = value
    return sendable


def evaluate_task(trainer: Any, resume_from: str | None, prefix: str = "eval") -> Outcome:
    """Evaluates in a worker."""
    return Outcome(result=trainer.evaluate(metric_key_prefix=prefix), state="")


def take_over(trainer: Any, outcome: Outcome) -> None:
    """Makes the driver's trainer what it would be had the run been there.

    Args:
        trainer: The driver's trainer.
        outcome: What the first worker sent back.
    """
    trainer.model.load_state_dict(outcome.model)
    with torch.no_grad():
        for name, tensor in owned_by_loss(trainer.model, trainer.loss).items():
            tensor.copy_(outcome.loss[name])
    if outcome.card is not None:
        trainer.model.model_card_data = outcome.card
    trainer.state = TrainerState(**json.loads(outcome.state))
    for callback, attributes in zip(trainer.own_callbacks(), outcome.callbacks, strict=True):
        callback.__dict__.update(attributes)
