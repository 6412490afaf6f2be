"""Which ranks share the shards of a weight: all of them, or those of a node, each node with a copy."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ray_st.training.distributed import collectives
from ray_st.training_args.sharding_options import FULL, HYBRID
from ray_st.world import World


def make_mesh(device: torch.device, world: World, hybrid: bool) -> DeviceMesh:
    """The ranks as a mesh whose last dimension shards; every rank must call it.

    Args:
        device: This rank's device.
        world: This rank's position.
        hybrid: Whether to shard within each node and replicate across nodes.

    Raises:
        ValueError: If nodes have different numbers of ranks, or one each.
    """
    if not hybrid:
        group: Any = dist.group.WORLD
        return DeviceMesh.from_group(group, device.type)
    return DeviceMesh(
        device.type,
        ranks_by_node(collectives.gather_objects(world.node_rank)),
        mesh_dim_names=("replicate", "shard"),
    )


def ranks_by_node(nodes: list[int]) -> list[list[int]]:
    """The ranks of each node.

    Args:
        nodes: The node of each rank.

    Raises:
        ValueError: If nodes have different numbers of ranks, or one each.
    """
    found = [[rank for rank, node in enumerate(nodes) if node == one] for one in sorted(set(nodes))]
    sizes = [len(ranks) for ranks in found]
    if len(set(sizes)) > 1 or sizes == [1] * len(sizes):
        raise ValueError(
            f'fsdp_config: sharding_strategy="{HYBRID}" shards weights over the workers of each node, so all '
            f"nodes need the same number of them, at least two; the nodes have {sizes}. Ask for workers that "
            f'fill the nodes, or use "{FULL}".'
        )
    return found
