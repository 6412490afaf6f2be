"""Shards of single tensors: made from whole ones, and gathered again."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

T = TypeVar("T")


def own_shard(whole: Tensor, shard: DTensor, device: torch.device, dtype: torch.dtype) -> DTensor:
    """A sharded tensor, of which each rank takes its rows from a whole one that all ranks have.

    Args:
        whole: The whole tensor, (n, ...), the same on every rank; only this rank's rows are read.
        shard: A sharded tensor of its shape, whose placement is taken.
        device: Where this rank's shard is made.
        dtype: Type of its values.
    """
    chosen = own_rows(whole, shard)
    return _like(torch.empty(chosen.shape, dtype=dtype, device=device).copy_(chosen), shard)


def own_rows(whole: Tensor, shard: DTensor) -> Tensor:
    """This rank's rows of a whole tensor, as a sharded one has them."""
    rows = _rows(whole, shard.device_mesh)
    return whole[shard.device_mesh.get_local_rank(-1) * rows :][:rows]


def scattered(whole: Tensor, shard: DTensor, device: torch.device, dtype: torch.dtype) -> DTensor:
    """A sharded tensor with the first rank's values; every rank must call it.

    Args:
        whole: As for :func:`own_shard`; only the first rank's is read.
        shard: Likewise.
        device: Likewise.
        dtype: Likewise.
    """
    mesh = shard.device_mesh
    rows = _rows(whole, mesh)
    mine = torch.zeros((rows, *whole.shape[1:]), dtype=dtype, device=device)
    if dist.get_rank() == 0:
        # Ranks must send and receive the same number of rows.
        parts = [torch.zeros_like(mine) for _ in range(mesh.size(-1))]
        for part, chosen in zip(parts, whole.split(rows), strict=False):
            part[: len(chosen)] = chosen
        places = _places(mesh)
        dist.scatter(mine, [parts[places[rank]] for rank in range(len(places))])
    else:
        dist.scatter(mine)
    return _like(mine[: len(own_rows(whole, shard))], shard)


def _rows(whole: Tensor, mesh: DeviceMesh) -> int:
    """Rows of all shards but the last ones, which may have fewer."""
    return max(1, -(-len(whole) // mesh.size(-1)))


def _like(local: Tensor, shard: DTensor) -> DTensor:
    """A sharded tensor made of each rank's own rows, of another's shape and placement."""
    return DTensor.from_local(
        local,
        shard.device_mesh,
        shard.placements,
        run_check=False,
        shape=shard.shape,
        stride=shard.stride(),
    )


def _places(mesh: DeviceMesh) -> dict[int, int]:
    """Which shard each rank holds: the last dimension of a mesh shards, one before it replicates."""
    groups = mesh.mesh.reshape(-1, mesh.size(-1)).tolist()
    return {rank: place for group in groups for place, rank in enumerate(group)}


def whole_tensor(value: T) -> T | Tensor:
    """The whole tensor of a sharded one, on every rank; other values are returned unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value
