"""What a trainer says of its parameters and their optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import Trainer
from transformers.integrations.deepspeed import propagate_args_to_deepspeed


class InspectableTrainer(Trainer):
    """transformers' Trainer with the questions that earlier releases answered.

    The optimizer lives where training runs: ask there, in a callback or an overridden method. On the driver there is
    one only if it was given as ``optimizers``.
    """

    model: Any

    def get_num_trainable_parameters(self) -> int:
        """Number of the model's parameters that are trained."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    def get_learning_rates(self) -> list[float]:
        """The learning rate of each group of parameters.

        Raises:
            ValueError: If there is no optimizer here.
        """
        return [group["lr"] for group in self._groups()]

    def get_optimizer_group(self, param: str | nn.Parameter | None = None) -> Any:
        """The optimizer's group of a parameter.

        Args:
            param: A parameter of the model or of a loss, or the name of one of the model's; None for all groups.

        Returns:
            The group, a dict, or a list with the parameters of each group.

        Raises:
            ValueError: If there is no optimizer here, or the parameter is in none of its groups.
        """
        groups = self._groups()
        if param is None:
            return [group["params"] for group in groups]
        wanted = dict(self.model.named_parameters()).get(param) if isinstance(param, str) else param
        for group in groups:
            if any(weight is wanted for weight in group["params"]):
                return group
        shown = repr(param) if isinstance(param, str) else "the given parameter"
        raise ValueError(f"{shown} is in no group of the optimizer.")

    def propagate_args_to_deepspeed(self, auto_find_batch_size: bool = False) -> None:
        """Completes DeepSpeed's configuration from the arguments; transformers does so by itself.

        Args:
            auto_find_batch_size: Whether the batch size is being searched for.

        Raises:
            ValueError: If DeepSpeed is not used: there is nothing to complete.
        """
        if not self.is_deepspeed_enabled:
            raise ValueError(
                "propagate_args_to_deepspeed completes DeepSpeed's configuration, and this trainer does not use DeepSpeed. "
                "transformers calls it by itself where it does: leave the call out."
            )
        propagate_args_to_deepspeed(self.accelerator, self.args, auto_find_batch_size)

    def _groups(self) -> list[dict[str, Any]]:
        if self.optimizer is None:
            raise ValueError(
                "There is no optimizer here: it is made where training runs. Ask in a callback, or in a method that a "
                "subclass overrides."
            )
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        return groups
