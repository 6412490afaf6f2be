"""Model and losses wrapped for several ranks: whole on each, with gradients reduced (DDP), or sharded (FSDP)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from ray_st.training.data.router_routes import routers_of, uses_all_rows
from ray_st.training.distributed import collectives
from ray_st.training.loop.optimizer_queries import InspectableTrainer
from ray_st.training.strategies import fsdp2
from ray_st.training.strategies.fsdp2 import ShardedStep
from ray_st.training.strategies.step_module import Step, owned_by_loss
from ray_st.training.worker_context import WorkerContext
from ray_st.util.events import notes


class WrappingTrainer(InspectableTrainer):
    """A trainer that wraps model and losses as one module, and gives whole weights to whoever needs them.

    Attributes:
        loss: The loss, or one for each dataset.
        place: The worker's surroundings; None on the driver.
    """

    args: Any
    loss: nn.Module | Mapping[str, nn.Module]
    place: WorkerContext | None = None
    _sharded: ShardedStep | None = None

    def __init__(self, *, args: Any, **options: Any) -> None:
        wanted, args.fsdp = args.fsdp, None  # ours to do: transformers would leave it to accelerate
        try:
            super().__init__(args=args, **options)
        finally:
            args.fsdp = wanted

    @property
    def here(self) -> WorkerContext:
        """The worker's surroundings."""
        assert self.place is not None, "the loop runs in a worker"
        return self.place

    @property
    def shards(self) -> bool:
        """Whether weights are sharded while training: where it is wanted, and there is more than one worker."""
        return bool(self.args.fsdp) and self.here.world.size > 1

    def wrapped(self) -> nn.Module:
        """Model and losses, wrapped as the arguments want it."""
        self._sharded = self._shard() if self.shards else None
        if self.args.fsdp and self.here.world.size == 1:
            notes.info("fsdp has no effect: there is one worker, which holds the whole model")
        self._owned = self._found_in_loss()
        if self.is_deepspeed_enabled:
            return self._engine()
        if self._sharded is not None:
            return self._sharded
        return collectives.reduce_gradients(Step(self.model, self.loss), self.args, self._skips_rows())

    def _skips_rows(self) -> bool:
        """Whether batches of some dataset leave rows of the model's Router unused, whose weights then stay as they are."""
        feed = self.here.train
        if feed is None:  # batches come from a loader of the user's own
            return bool(routers_of(self.model))
        datasets = {name: window.columns for name, window in zip(feed.names, feed.windows, strict=True)}
        return not uses_all_rows(self.model, self.args.router_mapping, datasets)

    def _engine(self) -> nn.Module:
        """Model and losses as DeepSpeed's engine, which takes the optimizer's steps, and the schedule's if it has one."""
        parts: list[Any] = [Step(self.model, self.loss), self.optimizer]
        if type(self.lr_scheduler).__name__ == "DummyScheduler":  # the configuration names one
            parts.append(self.lr_scheduler)
        engine, self.optimizer, *schedule = self.accelerator.prepare(*parts)
        self.lr_scheduler = schedule[0] if schedule else self.lr_scheduler
        wrapped: nn.Module = engine
        return wrapped

    def trained_by_loss(self) -> list[Tensor]:
        """The weights in training that losses own; while they are sharded, other ones at each step."""
        return self._owned if self._sharded is None else self._found_in_loss()

    def _found_in_loss(self) -> list[Tensor]:
        owned = owned_by_loss(self.model, self.loss).values()
        return [weight for weight in owned if weight.requires_grad]

    def _shard(self) -> ShardedStep:
        """Shards model and losses; the optimizer, which was made for whole weights, follows."""
        before = dict(Step(self.model, self.loss).named_parameters())
        config: Any = self.args.fsdp_config
        step = fsdp2.shard(self.model, self.loss, config, self.args.device)
        fsdp2.follow(self._torch_optimizer, before, dict(step.named_parameters()))
        self._torch_optimizer.register_load_state_dict_post_hook(fsdp2.share_state)
        return step

    def end_sharding(self) -> None:
        """Gives every rank the whole weights, for good: training has ended."""
        if self._sharded is None:
            return
        before = dict(self._sharded.named_parameters())
        self._sharded.end()
        fsdp2.follow(self._torch_optimizer, before, dict(self._sharded.named_parameters()))
        self._sharded = None

    def whole_weights(self) -> AbstractContextManager[None]:
        """While this lasts, every rank has the whole weights, to read; every rank must call it."""
        return nullcontext() if self._sharded is None else self._sharded.whole()

    def whole_state(self) -> AbstractContextManager[None]:
        """While this lasts, the first rank's optimizer has its whole state, to be saved; every rank must call it."""
        if not self.shards:
            return nullcontext()
        return fsdp2.whole_state(self._torch_optimizer, self.here.world.is_first)

    @property
    def _torch_optimizer(self) -> Any:
        return getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return fsdp2.whole_tensor(super()._get_grad_norm(model, grad_norm))
