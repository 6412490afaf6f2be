"""Applies what a callback requests on one rank to all ranks.

A checkpoint, an evaluation or a stop that only one rank enters would hang.

A callback that acts only if ``state.is_world_process_zero``, or depends on its own clock, sets flags of its
rank's ``control``. Before the loop acts on them, all ranks take the union. This costs a reduction of five
numbers, at each step only if a user's callback has a hook that is called in each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from types import MethodType
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

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
    base = vars(TrainerCallback)
    return any(getattr(callback, name) != MethodType(base[name], callback) for name in IN_STEPS)


class ConsensusHandler(CallbackHandler):
    """Calls callbacks as transformers' handler does, then synchronizes their requests over ranks.

    Args:
        handler: The handler to replace.
        trainer: The worker's trainer.
    """

    def __init__(self, handler: CallbackHandler, trainer: Trainer) -> None:
        vars(self).update(vars(handler))  # its constructor would add, and check, each callback again
        self._trainer = trainer
        self._asked = self._in_steps = False
        self._held = TrainerControl()

    def synchronize(self, control: TrainerControl) -> None:
        """Sets the union of the ranks' flags if a user's callback may have set one. All ranks call it."""
        if not self._asked:
            return
        held, self._held = asdict(self._held), TrainerControl()
        flags = {name: flag or held[name] for name, flag in asdict(control).items()}
        ranks = collectives.sum_of_numbers([int(flag) for flag in flags.values()])
        vars(control).update({name: count > 0 for name, count in zip(flags, ranks, strict=True)})

    def _hold(self, control: TrainerControl, *names: str) -> None:
        """Holds flags back until ranks agree."""
        if self._asked:
            flags = asdict(control)
            self._held = replace(self._held, **{name: True for name in names if flags[name]})
            vars(control).update(dict.fromkeys(names, False))

    def call_event(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        """Calls a hook of every callback; then flags are synchronized, or deferred to a later hook."""
        before = control.should_evaluate, control.should_save
        if event == "on_log":
            control.should_evaluate = control.should_save = False
        control = super().call_event(event, args, state, control, **kwargs)
        match event:
            case "on_train_begin":
                self._find_users()
            case "on_substep_end":  # until the end of the step, other ranks wait for this rank's gradient
                self._hold(control, "should_epoch_stop", "should_training_stop")
            case "on_log":  # a single rank may log alone, and the loop would act immediately
                self._hold(control, "should_evaluate", "should_save")
                control.should_evaluate |= before[0]
                control.should_save |= before[1]
            case "on_epoch_end" | "on_evaluate" | "on_save":
                self.synchronize(control)
            case "on_step_end" if self._in_steps:
                self.synchronize(control)
        return control

    def _find_users(self) -> None:
        """Determines, equally on all ranks, whether there is anything to synchronize."""
        own = [callback for callback in self.callbacks if of_users(type(callback))]
        subclass = of_users(type(self._trainer))
        if collectives.current_world().size > 1:
            mine = subclass or bool(own), subclass or any(map(acts_in_steps, own))
            asked, in_steps = collectives.sum_of_numbers(mine)
            self._asked, self._in_steps = asked > 0, in_steps > 0


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
        handler.synchronize(control)
    act()
