"""Model and losses with sharded weights: each rank keeps a shard of each and gathers layers to run them.

Every call of a layer gathers its weights, so all ranks must call each layer equally often, in the same order;
see :mod:`ray_st.losses.lockstep`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from ray_st.training.distributed import collectives
from ray_st.training.strategies.precision import StoredTypes
from ray_st.training.strategies.sharding.layout import Layout
from ray_st.training.strategies.sharding.shard_tensors import own_shard, scattered
from ray_st.training.strategies.step_module import LossOrLosses, Step


class RanksInStep:
    """What losses are given to make their calls together; see :class:`ray_st.losses.lockstep.Lockstep`."""

    is_recomputing = False
    """Whether a call of a forward pass runs within a backward pass."""

    def most(self, calls: int) -> int:
        """The largest number of calls of any rank; every rank must call it."""
        return collectives.largest_number(calls)

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Within this context layers are sharded again after they ran.

        PyTorch leaves them whole in a backward pass, where it expects their own backward to follow at once.
        """
        self.is_recomputing = True
        try:
            yield
        finally:
            self.is_recomputing = False


class ShardedStep(Step):
    """A step whose weights are sharded between its forward passes; :func:`shard` makes it."""

    _parts: tuple[_Part, ...] = ()
    _held: tuple[nn.Module, ...] = ()  # in a tuple it is no submodule, which would name its weights twice
    is_whole: bool = False
    _evaluates: bool = False

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Runs one loss computation with the first rank's buffers, as DDP does."""
        for buffer in self.buffers():
            dist.broadcast(buffer, 0)
        (held,) = self._held
        return held(compute)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Reduces gradients to shards, but not across replicas; called by accelerate during accumulation."""
        for part in self._parts:
            part.module.set_requires_all_reduce(False, recurse=False)
        try:
            yield
        finally:
            for part in self._parts:
                part.module.set_requires_all_reduce(True, recurse=False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this context model and losses may be called without gradient, as often on every rank.

        Layers are gathered for each call; what is gathered for a whole step is gathered once. With
        ``reshard_after_forward=False`` layers stay whole after the first call.
        """
        if self.is_whole or self._evaluates:
            yield
            return
        (held,) = self._parts[-1:]
        held.module.unshard()
        self._evaluates = True
        try:
            yield
        finally:
            self._evaluates = False
            for part in self._parts:
                part.module.reshard()

    @contextmanager
    def plain(self, take: Take) -> Iterator[None]:
        """Within this context all modules are plain ones, with read-only weights; one rank may run alone.

        Every rank must call it; nested calls do nothing.

        Args:
            take: What a rank puts in the place of each weight, such as the whole weight.
        """
        if self.is_whole:
            yield
            return
        for part in self._parts:
            part.open()
        self.is_whole = True
        try:
            with exchanged(self, take):
                yield
        finally:
            for part in self._parts:
                part.close()
            self.is_whole = False

    def end(self, gather: Callable[[Iterable[nn.Parameter]], Sequence[Tensor]]) -> None:
        """Permanently turns all modules into plain ones; every rank must call it.

        Args:
            gather: Makes whole tensors of all shards, in their order.
        """
        for part in self._parts:
            part.open()
        places = _places(self)
        for (weight, users), whole in zip(places.items(), gather(places), strict=True):
            _put(users, nn.Parameter(whole, weight.requires_grad))
        for part in self._parts:
            part.forget()
        self._parts, self.is_whole = (), True


Take = Callable[[nn.Parameter], Tensor]


@contextmanager
def exchanged(step: Step, take: Take) -> Iterator[None]:
    """Within this context a step's modules have other tensors as weights, made one after the other.

    Args:
        step: Model and losses.
        take: Makes the tensor that takes the place of a weight.
    """
    before = _places(step)
    try:
        for weight, places in before.items():
            _put(places, nn.Parameter(take(weight), weight.requires_grad))
        yield
    finally:
        for weight, places in before.items():
            _put(places, weight)


class _Held(nn.Module):
    """Gathers weights that modules elsewhere own, for as long as a function runs and until its backward pass.

    Args:
        owners: The modules.
    """

    def __init__(self, owners: Sequence[nn.Module]) -> None:
        super().__init__()
        self.owners = nn.ModuleList(map(_Owner, owners))

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Runs a function."""
        return compute()


class _Owner(nn.Module):
    """Owns the weights of another module, without its submodules: what is set here is set there."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._parameters = module._parameters


class _Part:
    """A module managed by ``fully_shard``, which can be switched to a plain module and back.

    ``fully_shard`` changes the module's class and adds hooks around its forward, saving and loading, and
    ``to()`` shards it. None of this may happen while a rank runs or saves the module alone, and PyTorch
    cannot pause or undo it.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self._again: RemovableHandle | None = None
        self._is_cast = False
        self._sharded, self._plain = type(module), type(module).__mro__[2]
        self._state: Any = fully_shard.state(module)  # type: ignore[attr-defined]

    def shard_again(self, ranks: RanksInStep) -> None:
        """Shards the weights after each forward pass that runs again within a backward pass."""
        self._again = self.module.register_forward_hook(
            lambda module, *_: module.reshard() if ranks.is_recomputing else None
        )

    def compute_in(self, kind: torch.dtype, device: torch.device) -> None:
        """Runs the module under autocast, also for a loss that calls modules of the model, not the model."""
        if "forward" not in vars(self.module):  # it has one if accelerate prepared it
            plain: Any = self._plain
            self.module.forward = MethodType(torch.autocast(device.type, kind)(plain.forward), self.module)
            self._is_cast = True

    def open(self) -> None:
        """Makes the module a plain one, whose weights are shards."""
        self.module.reshard()
        self.module.__class__ = self._plain
        self._state._pre_forward_hook_handle.remove()
        self._state._post_forward_hook_handle.remove()
        self._remove_state_hooks()

    def close(self) -> None:
        """The reverse of :meth:`open`; the weights must be the same shards."""
        module, state = self.module, self._state
        module.__class__ = self._sharded
        before = module.register_forward_pre_hook(state._pre_forward, prepend=True, with_kwargs=True)
        state._pre_forward_hook_handle = before
        state._post_forward_hook_handle = module.register_forward_hook(state._post_forward)
        for group in state._fsdp_param_groups:
            group._register_state_dict_hooks()

    def _remove_state_hooks(self) -> None:
        """Removes what shards this module's weights when a state dict is made of it, or of its copies.

        A thread makes them of copies while this module is running.
        """
        for group in self._state._fsdp_param_groups:
            for handles in (
                group._module_to_pre_save_state_dict_hook_handle,
                group._module_to_pre_load_state_dict_hook_handle,
            ):
                for handle in handles.values():
                    handle.remove()
                handles.clear()

    def forget(self) -> None:
        """Removes everything that cannot be copied or pickled."""
        if self._again is not None:
            self._again.remove()
        if self._is_cast:
            del self.module.forward
        for group in self._state._fsdp_param_groups:
            for weight in group.fsdp_params:
                weight._post_load_hook_handle.remove()
        for key in (STATE_KEY, REGISTRY_KEY):
            vars(self.module).pop(key)
        _module_state_mapping.pop(self.module)
        for part in self.module.modules():
            for mark in ("_is_fsdp_managed_module", "_fsdp_use_orig_params"):
                vars(part).pop(mark, None)


Places = list[tuple[nn.Module, str]]
"""The modules that use a weight, and the name that it has in each."""


@dataclass(frozen=True)
class Sharding:
    """How weights are sharded.

    Args:
        config: ``fsdp_config``, as accepted by :func:`ray_st.training_args.sharding_options.check_sharding`.
        device: This rank's device.
        mesh: The ranks, of which those along the last dimension share the shards of a weight.
        ranks: What losses have to make their calls together.
        compute: The type that autocast computes in; None without mixed precision. Linear layers are gathered
            in it, as autocast would convert their weights; their gradients are reduced in float32.
    """

    config: Mapping[str, Any]
    device: torch.device
    mesh: DeviceMesh
    ranks: RanksInStep
    compute: torch.dtype | None = None


def shard(model: nn.Module, loss: LossOrLosses, types: StoredTypes, sharding: Sharding) -> ShardedStep:
    """Shards a model and its losses over all ranks, in place.

    Of weights that all ranks read from equal files each takes its own rows; all others are the first rank's.
    There is never a second copy of more than one of them.

    Args:
        model: The model, whole on each rank.
        loss: The loss, or one for each dataset.
        types: The weights that become float32.
        sharding: How they are sharded.

    Raises:
        ValueError: If no layer has a configured name.
    """
    # Hidden states are views, as they pass through FSDP's own autograd nodes; nothing here writes into them.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    step = ShardedStep(model, loss)
    layout = Layout.of(step, sharding.config, apart=sharding.compute is not None)
    sharder = _Sharder(step, layout, types, sharding)
    for tensor in (*layout.numbers, *step.buffers()):
        tensor.data = sharder.converted(tensor)
        dist.broadcast(tensor.detach(), 0)
    held = _Held(sharder.owners(layout.held))
    left = {*layout.held, *layout.numbers}
    parts = [sharder.part(unit, left, reshard_after_forward=sharder.reshards) for unit in layout.units]
    for part in parts if sharder.reshards else ():
        part.shard_again(sharding.ranks)
    roots = [sharder.part(root, left) for root in layout.roots]
    if sharding.compute is not None:
        for root in roots:
            root.compute_in(sharding.compute, sharding.device)
    parts += roots
    parts.append(sharder.part(held, {*step.parameters()} - {*layout.held}))
    step._parts, step._held = tuple(parts), (held,)
    return step


class _Sharder:
    """Shards the modules of a step one after the other."""

    def __init__(self, step: Step, layout: Layout, types: StoredTypes, sharding: Sharding) -> None:
        self.reshards = bool(sharding.config.get("reshard_after_forward", True))
        self._device, self._mesh = sharding.device, sharding.mesh
        self._matrices = set(layout.matrices)
        self._places, self._wide = _places(step), set(map(id, types.tensors.values()))
        weights = dict(step.named_parameters())
        self._alike = {weights[name] for name in collectives.in_equal_files(weights)}
        self._plain = MixedPrecisionPolicy()
        self._mixed = MixedPrecisionPolicy(sharding.compute, torch.float32, cast_forward_inputs=False)

    def owners(self, weights: Sequence[nn.Parameter]) -> list[nn.Module]:
        """The modules that use weights."""
        return list({id(module): module for weight in weights for module, _ in self._places[weight]}.values())

    def converted(self, tensor: Tensor) -> Tensor:
        """A tensor's values on this rank's device, in the type that it is trained in."""
        return tensor.data.to(self._device, self._type(tensor))

    def _type(self, tensor: Tensor) -> torch.dtype:
        return torch.float32 if id(tensor) in self._wide else tensor.dtype

    def part(self, module: nn.Module, ignored: set[nn.Parameter], **options: Any) -> _Part:
        """Shards the weights of a module that are not sharded yet; ``ignored`` ones are left to others."""
        own = [weight for weight in module.parameters() if weight not in ignored and not _is_shard(weight)]
        for weight in own:
            empty = torch.empty(weight.shape, dtype=self._type(weight), device="meta")
            _put(self._places[weight], nn.Parameter(empty, weight.requires_grad))
        policy = self._mixed if module in self._matrices else self._plain
        sharded = fully_shard(module, mesh=self._mesh, mp_policy=policy, ignored_params=ignored, **options)
        if isinstance(module, nn.Embedding):
            sharded.set_unshard_in_backward(False)  # a table's gradient does not depend on it
        for weight in own:
            self._fill(weight)
        return _Part(module)

    def _fill(self, whole: nn.Parameter) -> None:
        """Puts the shard of a weight into its place, and frees the whole one."""
        places = self._places[whole]
        empty: Any = _weight_at(places)
        make = own_shard if whole in self._alike else scattered
        shard = make(whole.detach(), empty.detach(), self._device, empty.dtype)
        _put(places, nn.Parameter(shard, whole.requires_grad))
        whole.data = whole.new_empty(0)


def _places(step: Step) -> dict[nn.Parameter, Places]:
    """Where each weight of a step is used."""
    found: dict[nn.Parameter, Places] = {}
    for module in step.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                found.setdefault(weight, []).append((module, name))
    return found


def _weight_at(places: Places) -> nn.Parameter:
    module, name = places[0]
    weight = module._parameters[name]
    assert weight is not None
    return weight


def _put(places: Places, weight: nn.Parameter) -> None:
    for module, name in places:
        module._parameters[name] = weight


def _is_shard(weight: Tensor) -> bool:
    return isinstance(weight, DTensor)
