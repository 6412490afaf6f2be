"""The documented ``set_*`` helpers, on top of those of transformers, which lost some of their options."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from transformers import IntervalStrategy, SchedulerType

from ray_st.training_args.dropped import EFFECTS, DroppedArguments

if TYPE_CHECKING:
    from typing_extensions import Self


class GroupedArguments(DroppedArguments):
    """Helpers that set a group of arguments at once; those that are not given get their defaults.

    Each returns the arguments. ``set_save``, ``set_logging``, ``set_push_to_hub`` and ``set_optimizer`` are
    inherited.
    """

    global_train_batch_size: int | None
    dataset_batch_sizes: Any

    def set_training(
        self,
        learning_rate: float = 5e-5,
        batch_size: int = 8,
        weight_decay: float = 0,
        num_epochs: float = 3,
        max_steps: int = -1,
        gradient_accumulation_steps: int = 1,
        seed: int = 42,
        activation_checkpointing: bool = False,
        gradient_checkpointing: bool | None = None,
    ) -> Self:
        """Sets the training arguments, and ``do_train``.

        Args:
            learning_rate: Initial learning rate.
            batch_size: Rows in a batch on each worker.
            weight_decay: Weight decay of all weights except biases and norms.
            num_epochs: Passes over the data.
            max_steps: Number of steps, in place of ``num_epochs`` if positive.
            gradient_accumulation_steps: Batches per step.
            seed: Seed of the order of samples and of weight initialisation.
            activation_checkpointing: Whether to recompute activations instead of storing them.
            gradient_checkpointing: The older name of ``activation_checkpointing``.
        """
        super().set_training(
            learning_rate,
            batch_size,
            weight_decay,
            num_epochs,
            max_steps,
            gradient_accumulation_steps,
            seed,
            activation_checkpointing or bool(gradient_checkpointing),
        )
        return self._with_batch_size("set_training")

    def set_evaluate(
        self,
        strategy: str | IntervalStrategy = "no",
        steps: int = 500,
        batch_size: int = 8,
        accumulation_steps: int | None = None,
        delay: float | None = None,
        loss_only: bool = False,
        jit_mode: bool = False,
    ) -> Self:
        """Sets when and how to evaluate, and ``do_eval`` unless the strategy is ``"no"``.

        Args:
            strategy: ``"no"``, ``"steps"`` or ``"epoch"``.
            steps: Steps between evaluations.
            batch_size: Rows in a batch on each worker.
            accumulation_steps: Batches after which predictions are moved to the CPU.
            delay: Steps or epochs before the first evaluation.
            loss_only: Whether to return nothing but the loss.
            jit_mode: Has no effect; a warning says so.
        """
        super().set_evaluate(strategy, steps, batch_size, accumulation_steps, delay or 0, loss_only)
        return self._jit(jit_mode)

    def set_testing(self, batch_size: int = 8, loss_only: bool = False, jit_mode: bool = False) -> Self:
        """Sets the test arguments, and ``do_predict``.

        Args:
            batch_size: Rows in a batch on each worker.
            loss_only: Whether to return nothing but the loss.
            jit_mode: Has no effect; a warning says so.
        """
        super().set_testing(batch_size, loss_only)
        return self._jit(jit_mode)

    def set_lr_scheduler(  # type: ignore[override]  # the order of the pages
        self,
        name: str | SchedulerType = "linear",
        num_epochs: float = 3.0,
        max_steps: int = -1,
        warmup_ratio: float = 0.0,
        warmup_steps: float = 0,
    ) -> Self:
        """Sets the learning rate schedule.

        Args:
            name: Name of the schedule.
            num_epochs: Passes over the data.
            max_steps: Number of steps, in place of ``num_epochs`` if positive.
            warmup_ratio: Share of all steps over which the learning rate rises.
            warmup_steps: Number of these steps; overrides ``warmup_ratio``.
        """
        super().set_lr_scheduler(name, num_epochs, max_steps, warmup_steps)
        self.warmup_ratio = warmup_ratio
        return self

    def set_dataloader(  # type: ignore[override]  # the order of the pages
        self,
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        auto_find_batch_size: bool = False,
        ignore_data_skip: bool = False,
        sampler_seed: int | None = None,
        **newer: Any,
    ) -> Self:
        """Sets the batch and data loading arguments.

        Args:
            train_batch_size: Rows in a training batch on each worker.
            eval_batch_size: Rows in an evaluation batch on each worker.
            drop_last: Whether to drop an incomplete last batch.
            num_workers: Passed on.
            pin_memory: Whether to keep batches in pinned memory.
            persistent_workers: Passed on.
            prefetch_factor: Passed on.
            auto_find_batch_size: Whether to search for a batch size that fits into memory.
            ignore_data_skip: Whether a resumed run starts the epoch over.
            sampler_seed: Seed of the order of samples; by default ``seed``.
            newer: Further transformers options.
        """
        super().set_dataloader(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            drop_last=drop_last,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            prefetch_factor=prefetch_factor,
            auto_find_batch_size=auto_find_batch_size,
            ignore_data_skip=ignore_data_skip,
            sampler_seed=sampler_seed,
            **newer,
        )
        return self._with_batch_size("set_dataloader")

    def _with_batch_size(self, helper: str) -> Self:
        for name in ("global_train_batch_size", "dataset_batch_sizes"):
            if given := getattr(self, name):
                warnings.warn(
                    f"{helper} sets the batch size of each worker to {self.per_device_train_batch_size}; "
                    f"{name}={given!r} no longer holds. To keep it, set it after {helper}.",
                    UserWarning,
                    stacklevel=3,
                )
                setattr(self, name, None)
        return self

    def _jit(self, wanted: bool) -> Self:
        if wanted:
            warnings.warn(
                f"jit_mode has no effect: {EFFECTS['jit_mode_eval'].note()}.", UserWarning, stacklevel=3
            )
        return self
