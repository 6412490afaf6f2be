"""Weights sharded over ranks while training (FSDP): each rank keeps a shard and gathers layers to run.

Only this file uses PyTorch's ``fully_shard``. It requires that all ranks run each layer equally often in a
step, since each call gathers its weights; evaluations and checkpoints see whole weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ray_st.training.strategies.step_module import LossOrLosses, Step
from ray_st.training_args.sharding_options import BY_SIZE, NO_WRAP

T = TypeVar("T")


class ShardedStep(Step):
    """A step whose weights are sharded between its forward passes; :func:`shard` makes it."""

    _units: tuple[_Unit, ...] = ()
    _is_whole: bool = False

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Runs one loss computation with the first rank's buffers, as DDP does."""
        for buffer in self.buffers():
            dist.broadcast(buffer, 0)
        return super().forward(compute)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Accumulates gradients without reducing them; called by accelerate during accumulation."""
        sharded: Any = self
        sharded.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            sharded.set_requires_gradient_sync(True)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within this context all modules are plain, with whole, read-only weights; one rank may run alone.

        Every rank must call it; nested calls do nothing.
        """
        if self._is_whole:
            yield
            return
        self._gather()
        try:
            yield
        finally:
            for unit in self._units:
                unit.close()
            self._is_whole = False

    def end(self) -> None:
        """Permanently turns all modules into plain ones with whole weights; every rank must call it."""
        self._gather()
        for unit in self._units:
            unit.forget()
        self._units = ()

    def _gather(self) -> None:
        for unit in self._units:
            unit.open()
        self._is_whole = True


class _Unit:
    """A module managed by ``fully_shard``, which can be switched to a plain module and back.

    ``fully_shard`` changes the module's class and adds hooks around its forward, saving and loading, and
    ``to()`` shards it. None of this may happen while a rank runs or saves the module alone, and PyTorch
    cannot pause or undo it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self._sharded, self._plain = type(module), type(module).__mro__[2]
        self._state: Any = fully_shard.state(module)  # type: ignore[attr-defined]

    def open(self) -> None:
        """Gathers the weights."""
        self.module.unshard()
        self.module.__class__ = self._plain
        self._state._pre_forward_hook_handle.remove()
        self._state._post_forward_hook_handle.remove()
        for group in self._state._fsdp_param_groups:
            for weight in group.fsdp_params:
                weight._post_load_hook_handle.remove()
                mine = weight.unsharded_param  # owned by PyTorch: its memory must not be replaced
                weight._setattr_on_modules(nn.Parameter(mine.detach(), mine.requires_grad))
            saving = group._module_to_pre_save_state_dict_hook_handle
            loading = group._module_to_pre_load_state_dict_hook_handle
            for handle in (*saving.values(), *loading.values()):
                handle.remove()

    def close(self) -> None:
        """Shards the weights again; changes to the whole weights are lost."""
        module, state = self.module, self._state
        module.__class__ = self._sharded
        module.reshard()
        before = module.register_forward_pre_hook(state._pre_forward, prepend=True, with_kwargs=True)
        state._pre_forward_hook_handle = before
        state._post_forward_hook_handle = module.register_forward_hook(state._post_forward)

    def forget(self) -> None:
        """Removes everything that cannot be copied or pickled."""
        for key in (STATE_KEY, REGISTRY_KEY):
            vars(self.module).pop(key)
        _module_state_mapping.pop(self.module)
        for part in self.module.modules():
            for mark in ("_is_fsdp_managed_module", "_fsdp_use_orig_params"):
                vars(part).pop(mark, None)


def shard(
    model: nn.Module, loss: LossOrLosses, config: Mapping[str, Any], device: torch.device
) -> ShardedStep:
    """Shards a model and its losses over all ranks, in place, with the first rank's weights.

    Args:
        model: The model, whole on each rank.
        loss: The loss, or one for each dataset.
        config: ``fsdp_config``, as accepted by :func:`ray_st.training_args.sharding_options.check_sharding`.
        device: This rank's device.

    Raises:
        ValueError: If no layer has a configured name.
    """
    step = ShardedStep(model, loss)
    numbers = {weight for weight in step.parameters() if not weight.ndim}  # frozen scalars: unshardable
    parts = units(step, config)
    for tensor in (*step.parameters(), *step.buffers()):
        dist.broadcast(tensor.detach(), 0)
    world: Any = dist.group.WORLD
    mesh = DeviceMesh.from_group(world, device.type)
    reshards = config.get("reshard_after_forward", True)
    for part in parts:
        fully_shard(part, mesh=mesh, reshard_after_forward=reshards, ignored_params=numbers)
    fully_shard(step, mesh=mesh, ignored_params=numbers)
    step._units = tuple(_Unit(part) for part in (*parts, step))
    return step


def units(step: Step, config: Mapping[str, Any]) -> list[nn.Module]:
    """The modules that are gathered separately, inner ones first; the rest is gathered with the step.

    These are the modules of the model's encoders that ``config`` selects by class or size, unless they share
    weights with others.

    Args:
        step: Model and losses.
        config: ``fsdp_config``.

    Raises:
        ValueError: If no module has a configured name.
    """
    encoders = [part for part in step.model.modules() if isinstance(part, PreTrainedModel)]
    policy = config.get("auto_wrap_policy")
    if policy == NO_WRAP:
        return []
    if policy == BY_SIZE:
        chosen = _by_size(encoders, config["min_num_params"])
    else:
        chosen = _by_class(encoders, config.get("transformer_layer_cls_to_wrap"))
    uses = Counter(id(weight) for part in step.modules() for weight in part.parameters(recurse=False))
    return [part for part in chosen if _uses_alone(part, uses)]


def _by_class(encoders: Sequence[PreTrainedModel], wanted: Sequence[str] | None) -> list[nn.Module]:
    names = {name for encoder in encoders for name in encoder._no_split_modules or ()}
    found = [
        part
        for part in _inner_parts(encoders)
        if type(part).__name__ in (names if wanted is None else wanted)
    ]
    missing = sorted(set(wanted or ()) - {type(part).__name__ for part in found})
    if missing:
        there = sorted({type(part).__name__ for part in _inner_parts(encoders)})
        raise ValueError(
            f"fsdp_config: transformer_layer_cls_to_wrap names {missing}, and the model has no such layers. "
            f"It has {there}."
        )
    return found


def _by_size(encoders: Sequence[PreTrainedModel], least: int) -> list[nn.Module]:
    chosen: list[nn.Module] = []
    taken: set[int] = set()
    for part in _inner_parts(encoders):
        weights = [weight for weight in part.parameters() if id(weight) not in taken]
        if sum(weight.numel() for weight in weights) >= least:
            chosen.append(part)
            taken.update(map(id, weights))
    return chosen


def _inner_parts(encoders: Sequence[PreTrainedModel]) -> list[nn.Module]:
    """The submodules of encoders that have a forward of their own, inner ones first."""
    parts = {id(part): part for encoder in encoders for part in list(encoder.modules())[1:]}
    lists = (nn.ModuleList, nn.ModuleDict, PreTrainedModel)
    return [part for part in reversed(parts.values()) if not isinstance(part, lists)]


def _uses_alone(part: nn.Module, uses: Mapping[int, int]) -> bool:
    inside = Counter(id(weight) for inner in part.modules() for weight in inner.parameters(recurse=False))
    return all(uses[weight] == number for weight, number in inside.items())


# ---- optimizers ----


def follow(
    optimizer: torch.optim.Optimizer, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    """Makes an optimizer update other tensors: the shards of its weights, or the whole weights.

    Args:
        optimizer: An optimizer of the weights in ``before``; its state moves along.
        before: Current weights by name.
        after: The weights that replace them.
    """
    new = {id(weight): after[name] for name, weight in before.items()}
    for group in optimizer.param_groups:
        group["params"] = [new.get(id(weight), weight) for weight in group["params"]]
    for weight in [weight for weight in optimizer.state if id(weight) in new]:
        optimizer.state[new[id(weight)]] = optimizer.state.pop(weight)
    share_state(optimizer)


def share_state(optimizer: torch.optim.Optimizer) -> None:
    """Keeps only this rank's shard of an optimizer's whole state, for each sharded weight."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(weight, DTensor) and isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = value if isinstance(value, DTensor) else _part_of(value, weight)


@contextmanager
def whole_state(optimizer: torch.optim.Optimizer, keeps: bool) -> Iterator[None]:
    """Temporarily gives an optimizer its whole state, for saving; every rank must call it.

    Args:
        optimizer: The optimizer.
        keeps: Whether this rank keeps the state; the others only take part in the collectives.
    """
    sharded = optimizer.state
    whole = type(sharded)(sharded.default_factory)
    for weight, state in sharded.items():
        values = {name: whole_tensor(value) for name, value in state.items()}
        if keeps:
            whole[weight] = {
                name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()
            }
    optimizer.state = whole if keeps else sharded
    try:
        yield
    finally:
        optimizer.state = sharded


def whole_tensor(value: T) -> T | Tensor:
    """The whole tensor of a sharded one, on every rank; other values are returned unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part_of(value: Tensor, weight: DTensor) -> DTensor:
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
