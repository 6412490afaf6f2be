"""Whole weights once on each node: a file that all ranks of the node map, in place of a copy for each.

The file is unlinked once it is mapped, so nothing is left of it when the processes end. Ranks map it
privately: what one changes, others do not see.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import torch
from torch import Tensor

from ray_st.training.distributed import collectives
from ray_st.world import World

PREFIX = "ray_st-weights-"
"""First part of the file's name."""

_ALIGNMENT = mmap.ALLOCATIONGRANULARITY  # where a mapping may begin


class NodeFile:
    """Takes tensors one after the other; then gives all of them. Every rank must call its methods alike.

    Args:
        world: This rank and its node.
        folder: Where the file is made; None for the system's temporary folder.
    """

    def __init__(self, world: World, folder: str | None) -> None:
        self._world, self._places = world, list[tuple[int, torch.Size, torch.dtype]]()
        self._file: IO[bytes] | None = None
        self._end = 0
        if world.local_rank == 0:
            place = None if folder is None else Path(folder)
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
            self._file = NamedTemporaryFile(dir=place, prefix=PREFIX, delete=False)  # noqa: SIM115

    def take(self, whole: Tensor) -> None:
        """Writes a tensor, on the first rank of each node."""
        start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        self._places.append((start, whole.shape, whole.dtype))
        if self._file is not None:
            content = whole.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            self._file.write(bytes(start - self._end))
            content.numpy().tofile(self._file)
        self._end = start + whole.numel() * whole.element_size()

    def tensors(self) -> Sequence[Tensor]:
        """All tensors, mapped into this process; the file is gone afterwards."""
        name = ""
        if self._file is not None:
            self._file.close()
            name = self._file.name
        told = collectives.gather_objects((self._world.node_rank, name))
        path = next(name for node, name in told if name and node == self._world.node_rank)
        with Path(path).open("rb") as file:
            found = [_mapped(file.fileno(), *place) for place in self._places]
        collectives.gather_objects(None)  # all have mapped it
        if name:
            Path(name).unlink()
        return found


def _mapped(file: int, start: int, shape: torch.Size, kind: torch.dtype) -> Tensor:
    size = math.prod(shape) * kind.itemsize
    if not size:
        return torch.empty(shape, dtype=kind)
    # A mapping for each, so that each has its own storage, which is what is copied and pickled.
    content = mmap.mmap(file, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=start)
    return torch.frombuffer(content, dtype=kind).reshape(shape)
