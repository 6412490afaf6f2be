"""An optimizer whose weights become shards, or whole again, and what it remembers of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ray_st.training.strategies.sharding.shard_tensors import whole_tensor


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


def _part_of(value: Tensor, weight: DTensor) -> DTensor:
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
