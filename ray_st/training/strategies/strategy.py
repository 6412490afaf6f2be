"""How model and losses are wrapped while training: DDP (whole), FSDP2 (sharded) or DeepSpeed's engine.

A strategy is made once for a trainer and wraps the model anew for each training. Code that needs whole
weights or a whole optimizer state gets them from the strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.trainer import OPTIMIZER_NAME
from transformers.training_args import OptimizerNames

from ray_st.losses.lockstep import Lockstep
from ray_st.training.checkpoint.host_copies import HostCopies
from ray_st.training.distributed import collectives
from ray_st.training.strategies.precision import StoredTypes, widen
from ray_st.training.strategies.step_module import LossOrLosses, Step, owned_by_loss
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.world import World

CopyState = Callable[[Any], Any]
WriteFiles = Callable[[Path], None]

LEAST_SCALE = 1e-4
"""Loss scale (fp16) below which an overflow is no longer attributed to the scale."""

_LOMO = (OptimizerNames.LOMO, OptimizerNames.ADALOMO)
_IN_BACKWARD = (*_LOMO, *(name for name in OptimizerNames if "layerwise" in name.value))
"""Optimizers that update each weight during the backward pass and leave no gradient."""


@dataclass(frozen=True)
class Parts:
    """What a strategy wraps.

    Args:
        model: The model.
        loss: The loss, or one for each dataset.
        optimizer: An optimizer of the plain weights of both.
        lr_scheduler: Its schedule.
        skips_rows: Whether batches of some dataset leave rows of the model's Router unused.
    """

    model: nn.Module
    loss: LossOrLosses
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler
    skips_rows: bool = False


@dataclass(frozen=True)
class Wrapped:
    """What training uses instead of the plain parts.

    Args:
        module: Model and losses as one module.
        optimizer: The optimizer.
        lr_scheduler: Its schedule.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler


class Strategy:
    """Whole weights on each rank; gradients are reduced where there are several (DDP).

    Args:
        args: Training arguments.
        world: This process's rank and the number of ranks.
    """

    shards = False
    """Whether weights are sharded while training."""

    lockstep: Lockstep | None = None
    """The agreement of ranks that must make their calls of the model together; None if they need not."""

    def __init__(self, args: SentenceTransformerTrainingArguments, world: World) -> None:
        self.args, self.world = args, world

    def widen(self, model: nn.Module, loss: LossOrLosses) -> StoredTypes:
        """Makes trained weights float32, whatever type they are stored in."""
        return widen(model, loss)

    def wrap(self, parts: Parts, accelerator: Accelerator) -> Wrapped:
        """Wraps model and losses for a training."""
        self._owned = trained_by_losses(parts)
        if self.args.fsdp:
            notes.info("fsdp has no effect: there is one worker, which holds the whole model")
        module = collectives.reduce_gradients(Step(parts.model, parts.loss), self.args, parts.skips_rows)
        return Wrapped(module, parts.optimizer, parts.lr_scheduler)

    def trained_by_loss(self) -> list[Tensor]:
        """The trained weights that losses own."""
        return self._owned

    @property
    def is_sharded(self) -> bool:
        """Whether weights are sharded now, so that every rank takes part in each call of the model."""
        return False

    def evaluating(self) -> AbstractContextManager[None]:
        """Within this context model and losses may be called without gradient; every rank must enter it."""
        return nullcontext()

    def whole_weights(self) -> AbstractContextManager[None]:
        """Within this context every rank has the whole weights, read-only; every rank must call it."""
        return nullcontext()

    def saving(self, copies: HostCopies, alone: bool = False) -> AbstractContextManager[Sequence[Tensor]]:
        """Within this context a rank has what it saves of the weights; every rank must enter it.

        Args:
            copies: Makes copies of tensors in host memory.
            alone: Whether the first rank saves everything.

        Returns:
            The weights that need not be copied any more.
        """
        return nullcontext(())

    def copy_optimizer(self, optimizer: torch.optim.Optimizer, copy: CopyState) -> WriteFiles:
        """Copies what a rank saves of an optimizer's state; returns what writes it into a folder.

        Args:
            optimizer: The optimizer.
            copy: Copies a state to host memory.
        """
        state = copy(optimizer.state_dict())
        return lambda folder: torch.save(state, folder / OPTIMIZER_NAME)

    def grad_norm(self, norm: Tensor | float) -> Tensor | float:
        """The norm of a step's gradient as a plain number or tensor; every rank must call it."""
        return norm

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        """Ends training: afterwards every rank has the whole weights, sharded ones in host memory."""

    @property
    def keeps_gradient(self) -> bool:
        """Whether gradients remain after the backward pass; otherwise the optimizer has already stepped."""
        return self.args.optim not in _IN_BACKWARD

    def backward_options(self, learning_rate: Callable[[], float]) -> dict[str, Any]:
        """Keyword arguments for accelerate's ``backward``."""
        return {"learning_rate": learning_rate()} if self.args.optim in _LOMO else {}

    def skips_overflow(self, accelerator: Accelerator) -> bool:
        """Whether a non-finite gradient comes from scaled losses (fp16), so that the optimizer skips it."""
        scaler = accelerator.scaler
        return scaler is not None and scaler.is_enabled() and scaler.get_scale() > LEAST_SCALE


class DeepSpeed(Strategy):
    """DeepSpeed's engine, which steps the optimizer, and the schedule if its configuration names one."""

    def wrap(self, parts: Parts, accelerator: Accelerator) -> Wrapped:
        """Creates the engine."""
        self._owned = trained_by_losses(parts)
        given: list[Any] = [Step(parts.model, parts.loss), parts.optimizer]
        if type(parts.lr_scheduler).__name__ == "DummyScheduler":  # the configuration names one
            given.append(parts.lr_scheduler)
        engine, optimizer, *schedule = accelerator.prepare(*given)
        return Wrapped(engine, optimizer, schedule[0] if schedule else parts.lr_scheduler)

    @property
    def keeps_gradient(self) -> bool:
        """False: the engine updates the weights in the backward pass."""
        return False

    def backward_options(self, learning_rate: Callable[[], float]) -> dict[str, Any]:
        """The loss is already divided by the number of batches."""
        return {"scale_wrt_gas": False}

    def skips_overflow(self, accelerator: Accelerator) -> bool:
        """The engine scales losses by itself."""
        return bool(self.args.fp16)


def plain_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The torch optimizer inside accelerate's wrapper."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def trained_by_losses(parts: Parts) -> list[Tensor]:
    """The trained weights that losses own."""
    owned = owned_by_loss(parts.model, parts.loss).values()
    return [weight for weight in owned if weight.requires_grad]
