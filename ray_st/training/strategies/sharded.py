"""Weights sharded over ranks while training (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ray_st.training.checkpoint.host_copies import HostCopies
from ray_st.training.strategies.precision import StoredTypes
from ray_st.training.strategies.sharding import optimizer_shards
from ray_st.training.strategies.sharding.mesh import make_mesh
from ray_st.training.strategies.sharding.node_file import NodeFile
from ray_st.training.strategies.sharding.optimizer_files import OptimizerPart
from ray_st.training.strategies.sharding.shard_tensors import whole_tensor
from ray_st.training.strategies.sharding.sharded_step import (
    RanksInStep,
    ShardedStep,
    Sharding,
    exchanged,
    shard,
)
from ray_st.training.strategies.sharding.weight_parts import Owners, own_part, saving_parts
from ray_st.training.strategies.step_module import LossOrLosses, Step
from ray_st.training.strategies.strategy import (
    CopyState,
    Parts,
    Strategy,
    Wrapped,
    WriteFiles,
    plain_optimizer,
    trained_by_losses,
)
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.training_args.sharding_options import HYBRID
from ray_st.world import World


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
        return trained_by_losses(self._parts)

    @property
    def is_sharded(self) -> bool:
        """True from the start of a training to its end, where weights are not whole for a while."""
        return self._step is not None and not self._step.is_whole

    def evaluating(self) -> AbstractContextManager[None]:
        """Weights stay sharded, except for those that are gathered for a whole step."""
        return nullcontext() if self._step is None else self._step.evaluating()

    def whole_weights(self) -> AbstractContextManager[None]:
        """Gathers the weights temporarily."""
        return nullcontext() if self._step is None else self._step.plain(_whole)

    @contextmanager
    def saving(self, copies: HostCopies, alone: bool = False) -> Iterator[Sequence[Tensor]]:
        """Gathers one weight after the other, for the rank that saves it; other ranks have empty tensors."""
        is_whole = alone if self._step is None else self._step.is_whole  # no longer, or for a while
        if self._parts is None or is_whole:
            yield ()
            return
        step = Step(self._parts.model, self._parts.loss) if self._step is None else self._step
        owners, rank = Owners.among(step, 1 if alone else self.world.size), self.world.rank
        take = own_part(owners, rank, copies.begin)
        with (
            exchanged(step, take) if self._step is None else self._step.plain(take),
            saving_parts(owners, rank),
        ):
            copies.wait()
            yield list(step.parameters())

    def copy_optimizer(self, optimizer: torch.optim.Optimizer, copy: CopyState) -> WriteFiles:
        """Copies this rank's shards."""
        assert self._parts is not None
        weights = dict(Step(self._parts.model, self._parts.loss).named_parameters())
        part = OptimizerPart.of(plain_optimizer(optimizer), weights, self.world.is_first, copy)

        def write(folder: Path) -> None:
            part.write(folder, self.world.rank)

        return write

    def grad_norm(self, norm: Tensor | float) -> Tensor | float:
        """Gathers the norm, of which each rank holds a shard."""
        return whole_tensor(norm)

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        """Gathers the weights permanently: they are in host memory once on each node."""
        if self._step is None:
            return
        before = dict(self._step.named_parameters())
        self._step.end(self._on_node)
        optimizer_shards.follow(plain_optimizer(optimizer), before, dict(self._step.named_parameters()))
        self._step = None

    def _on_node(self, weights: Iterable[nn.Parameter]) -> Sequence[Tensor]:
        file = NodeFile(self.world, self.args.scratch_dir)
        for weight in weights:
            file.take(_whole(weight))
        return file.tensors()


def _whole(weight: nn.Parameter) -> Tensor:
    return whole_tensor(weight.detach())
