"""An optimizer whose weights become shards, or whole again, and what it remembers of each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


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


def _part_of(value: Tensor, weight: DTensor) -> DTensor:
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
