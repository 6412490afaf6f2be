"""How model and losses are wrapped while training: DDP (whole), FSDP2 (sharded) or DeepSpeed's engine.

A strategy is made once for a trainer and wraps the model anew for each training. Code that needs whole
weights or a whole optimizer state gets them from the strategy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.training_args import OptimizerNames

from ray_st.losses.lockstep import Lockstep
from ray_st.training.distributed import collectives
from ray_st.training.strategies.precision import StoredTypes, widen
from ray_st.training.strategies.sharding import optimizer_shards
from ray_st.training.strategies.sharding.mesh import make_mesh
from ray_st.training.strategies.sharding.shard_tensors import whole_tensor
from ray_st.training.strategies.sharding.sharded_step import RanksInStep, ShardedStep, Sharding, shard
from ray_st.training.strategies.step_module import LossOrLosses, Step, owned_by_loss
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.training_args.sharding_options import HYBRID
from ray_st.util.events import notes
from ray_st.world import World

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
        self._owned = _trained(parts)
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

    def whole_state(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Within this context the first rank's optimizer has its whole state; every rank must call it."""
        return nullcontext()

    def grad_norm(self, norm: Tensor | float) -> Tensor | float:
        """The norm of a step's gradient as a plain number or tensor; every rank must call it."""
        return norm

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        """Ends training: afterwards every rank has the whole weights."""

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


class Sharded(Strategy):
    """Weights, gradients and optimizer state sharded over ranks (FSDP2).

    See :mod:`ray_st.training.strategies.sharding`.
    """

    shards = True
    lockstep: RanksInStep
    _parts: Parts | None = None
    _types: StoredTypes | None = None
    _step: ShardedStep | None = None

    def __init__(self, args: SentenceTransformerTrainingArguments, world: World) -> None:
        super().__init__(args, world)
        self.lockstep = RanksInStep()

    def widen(self, model: nn.Module, loss: LossOrLosses) -> StoredTypes:
        """Notes the trained weights, whose shards will be float32."""
        self._types = StoredTypes.of(model, loss)
        return self._types

    def wrap(self, parts: Parts, accelerator: Accelerator) -> Wrapped:
        """Shards model and losses; the optimizer, which was made for whole weights, follows."""
        self._parts, optimizer = parts, plain_optimizer(parts.optimizer)
        before = dict(Step(parts.model, parts.loss).named_parameters())
        config: Any = self.args.fsdp_config  # transformers also documents a path; it has been read by now
        device, compute = self.args.device, torch.bfloat16 if self.args.bf16 else None
        mesh = make_mesh(device, self.world, config.get("sharding_strategy") == HYBRID)
        sharding = Sharding(config, device, mesh, self.lockstep, compute)
        assert self._types is not None, "weights were noted before"
        self._step = shard(parts.model, parts.loss, self._types, sharding)
        optimizer_shards.follow(optimizer, before, dict(self._step.named_parameters()))
        optimizer.register_load_state_dict_post_hook(optimizer_shards.share_state)
        return Wrapped(self._step, parts.optimizer, parts.lr_scheduler)

    def trained_by_loss(self) -> list[Tensor]:
        """The trained weights that losses own; the tensors differ from step to step."""
        assert self._parts is not None
        return _trained(self._parts)

    @property
    def is_sharded(self) -> bool:
        """True from the start of a training to its end, where weights are not whole for a while."""
        return self._step is not None and not self._step.is_whole

    def evaluating(self) -> AbstractContextManager[None]:
        """Weights stay sharded, except for those that are gathered for a whole step."""
        return nullcontext() if self._step is None else self._step.evaluating()

    def whole_weights(self) -> AbstractContextManager[None]:
        """Gathers the weights temporarily."""
        return nullcontext() if self._step is None else self._step.whole()

    def whole_state(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Gathers the optimizer's state temporarily."""
        return optimizer_shards.whole_state(plain_optimizer(optimizer), self.world.is_first)

    def grad_norm(self, norm: Tensor | float) -> Tensor | float:
        """Gathers the norm, of which each rank holds a shard."""
        return whole_tensor(norm)

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        """Gathers the weights permanently."""
        if self._step is None:
            return
        before = dict(self._step.named_parameters())
        self._step.end()
        optimizer_shards.follow(plain_optimizer(optimizer), before, dict(self._step.named_parameters()))
        self._step = None


class DeepSpeed(Strategy):
    """DeepSpeed's engine, which steps the optimizer, and the schedule if its configuration names one."""

    def wrap(self, parts: Parts, accelerator: Accelerator) -> Wrapped:
        """Creates the engine."""
        self._owned = _trained(parts)
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


def make_strategy(
    args: SentenceTransformerTrainingArguments, world: World, with_deepspeed: bool = False
) -> Strategy:
    """The strategy that training arguments ask for.

    Args:
        args: Training arguments.
        world: This process's rank and the number of ranks.
        with_deepspeed: Whether accelerate was set up for DeepSpeed.
    """
    if args.fsdp and world.size > 1:
        return Sharded(args, world)
    return DeepSpeed(args, world) if with_deepspeed else Strategy(args, world)


def plain_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The torch optimizer inside accelerate's wrapper."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def _trained(parts: Parts) -> list[Tensor]:
    owned = owned_by_loss(parts.model, parts.loss).values()
    return [weight for weight in owned if weight.requires_grad]
