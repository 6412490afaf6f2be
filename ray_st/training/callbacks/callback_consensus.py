"""Applies what a callback requests on one rank to all ranks.

A checkpoint, an evaluation or a stop that only one rank enters would hang.

A callback that acts only if ``state.is_world_process_zero``, or depends on its own clock, sets flags of its
rank's ``control``. Before the loop acts on them, all ranks take the union. This costs a reduction of five
numbers, at each step only if a user's callback has a hook that is called in each step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from ray_st.training.distributed import collectives

IN_STEPS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_step_begin",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_substep_end",
    "on_step_end",
)
"""Hooks whose flags are acted on at the end of a step.

Flags of other hooks are rarer and are synchronized right after the hook.
"""

_LIBRARIES = ("ray_st", "transformers")


def of_users(kind: type) -> bool:
    """Whether a class is user-defined; library callbacks depend only on values that all ranks share."""
    return kind.__module__.split(".")[0] not in _LIBRARIES


def acts_in_steps(callback: TrainerCallback) -> bool:
    """Whether a callback has a hook that is called in each step.

    Args:
        callback: The callback; hooks may also be set on the instance.
    """
    hooks = ((name, getattr(callback, name, None)) for name in IN_STEPS)
    return any(
        hook is not None and getattr(hook, "__func__", hook) is not vars(TrainerCallback)[name]
        for name, hook in hooks
    )


class ConsensusHandler(CallbackHandler):
    """Calls callbacks as transformers' handler does, then synchronizes their requests over ranks.

    Args:
        handler: The handler to replace.
        trainer: The worker's trainer.
    """

    def __init__(self, handler: CallbackHandler, trainer: Trainer) -> None:
        super().__init__(
            [DefaultFlowCallback],
            handler.model,
            handler.processing_class,
            handler.optimizer,
            handler.lr_scheduler,
        )
        self.callbacks = handler.callbacks
        self._trainer = trainer
        self._asked = self._in_steps = False
        self._held = TrainerControl()

    def agreed(self, control: TrainerControl) -> TrainerControl:
        """The union of the ranks' flags, if a user's callback may have set one; every rank must call it."""
        if not self._asked:
            return control
        held, self._held = dataclasses.asdict(self._held), TrainerControl()
        flags = {name: flag or held[name] for name, flag in dataclasses.asdict(control).items()}
        mine = torch.tensor([int(flag) for flag in flags.values()], device=self._trainer.args.device)
        for name, ranks in zip(flags, collectives.sum_over_ranks(mine).tolist(), strict=True):
            setattr(control, name, ranks > 0)
        return control

    def _hold(self, control: TrainerControl, *names: str) -> TrainerControl:
        """Holds flags back until ranks agree."""
        for name in names if self._asked else ():
            setattr(self._held, name, getattr(self._held, name) or getattr(control, name))
            setattr(control, name, False)
        return control

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> TrainerControl:
        """Determines, equally on all ranks, whether there is anything to synchronize."""
        control = super().on_train_begin(args, state, control)
        own = [callback for callback in self.callbacks if of_users(type(callback))]
        subclass = of_users(type(self._trainer))
        mine = torch.tensor(
            [subclass or bool(own), subclass or any(map(acts_in_steps, own))], device=args.device
        )
        if collectives.current_world().size > 1:
            asked, in_steps = collectives.sum_over_ranks(mine.int()).tolist()
            self._asked, self._in_steps = asked > 0, in_steps > 0
        return control

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> TrainerControl:
        """Defers a stop to the end of the step: until then, other ranks wait for this rank's gradient."""
        control = super().on_substep_end(args, state, control)
        return self._hold(control, "should_epoch_stop", "should_training_stop")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> TrainerControl:
        """Defers requests: a single rank may log alone, and the loop would act immediately."""
        before = control.should_evaluate, control.should_save
        control.should_evaluate = control.should_save = False
        control = self._hold(super().on_log(args, state, control, logs), "should_evaluate", "should_save")
        control.should_evaluate |= before[0]
        control.should_save |= before[1]
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> TrainerControl:
        """Synchronizes the flags after a step."""
        control = super().on_step_end(args, state, control)
        return self.agreed(control) if self._in_steps else control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> TrainerControl:
        """Synchronizes the flags after an epoch."""
        return self.agreed(super().on_epoch_end(args, state, control))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> TrainerControl:
        """Synchronizes the flags after an evaluation, in which all ranks take part."""
        return self.agreed(super().on_evaluate(args, state, control, metrics))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> TrainerControl:
        """Synchronizes the flags after a checkpoint."""
        return self.agreed(super().on_save(args, state, control))


def agree_after_log(trainer: Trainer, act: Callable[[], None]) -> None:
    """Lets a trainer log, evaluate and save according to its control.

    Requests made in ``on_log`` are applied on all ranks afterwards.

    Args:
        trainer: The worker's trainer, with a :class:`ConsensusHandler`.
        act: Acts on the control's flags.
    """
    control, handler = trainer.control, trainer.callback_handler
    assert isinstance(handler, ConsensusHandler)
    if control.should_log:
        wanted = control.should_evaluate, control.should_save
        control.should_evaluate = control.should_save = False
        act()
        control = trainer.control
        control.should_evaluate |= wanted[0]
        control.should_save |= wanted[1]
        trainer.control = handler.agreed(control)
    act()
