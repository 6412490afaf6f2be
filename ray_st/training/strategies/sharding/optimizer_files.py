"""The state of a sharded optimizer in files: each rank writes its shards, any number of ranks reads them.

The shards are in the safetensors format of :mod:`torch.distributed.checkpoint`, a file for each rank in a
folder of their own; everything that is no tensor is in a JSON file beside it. Nothing is pickled or gathered.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

FOLDER = "optimizer"
SETTINGS = f"{FOLDER}.json"

_STATE, _GROUPS, _WEIGHTS = "state", "groups", "params"


@dataclass(frozen=True)
class OptimizerPart:
    """A rank's part of an optimizer's state, in host memory.

    Args:
        tensors: Tensors of the state by ``WEIGHT.NAME``: shards as sharded tensors, others only on the
            first rank.
        settings: Everything else, for JSON.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any]

    @classmethod
    def of(
        cls,
        optimizer: torch.optim.Optimizer,
        weights: Mapping[str, Tensor],
        is_first: bool,
        copy: Callable[[Tensor], Tensor],
    ) -> OptimizerPart:
        """A copy of a rank's part.

        Args:
            optimizer: The optimizer.
            weights: Its weights by name.
            is_first: Whether this is the first rank.
            copy: Copies a tensor to host memory.
        """
        name_of = {id(weight): name for name, weight in weights.items()}
        tensors, others = dict[str, Tensor](), dict[str, dict[str, Any]]()
        for weight, state in optimizer.state.items():
            name = name_of[id(weight)]
            for key, value in state.items():
                if isinstance(value, DTensor):
                    if _is_first_replica(value.device_mesh):
                        tensors[f"{name}.{key}"] = _on_host(value, copy)
                elif isinstance(value, Tensor):
                    tensors |= {f"{name}.{key}": copy(value)} if is_first else {}
                else:
                    others.setdefault(name, {})[key] = value
        groups = [_plain(group, name_of) for group in optimizer.param_groups]
        return cls(tensors, {_STATE: others, _GROUPS: groups})

    def write(self, folder: Path, rank: int) -> None:
        """Writes this rank's files of a checkpoint."""
        place = folder / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        if self.tensors:
            _without_its_warning()
            writer = dcp.HuggingFaceStorageWriter(str(place), save_distributed=True)
            dcp.save(self.tensors, storage_writer=writer, no_dist=True)
            (written,) = place.glob("*.safetensors")
            written.rename(place / f"rank-{rank:05}.safetensors")
        if rank == 0:
            (folder / SETTINGS).write_text(json.dumps(self.settings, indent=1))


def read_optimizer(folder: Path, optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]) -> None:
    """Gives an optimizer the state in a checkpoint's files; each rank reads only what it needs.

    Args:
        folder: The checkpoint.
        optimizer: An optimizer of the same weights, whole or sharded over any number of ranks.
        weights: Its weights by name.

    Raises:
        ValueError: If the state is that of other weights.
    """
    saved = json.loads((folder / SETTINGS).read_text())
    name_of = {id(weight): name for name, weight in weights.items()}
    mine = [[name_of[id(weight)] for weight in group["params"]] for group in optimizer.param_groups]
    theirs = [group[_WEIGHTS] for group in saved[_GROUPS]]
    if mine != theirs:
        raise ValueError(
            f"{folder / SETTINGS} is of an optimizer with other weights or groups: it has groups of "
            f"{_sizes(theirs)} weights, and this one has {_sizes(mine)}. Resume with the arguments that the "
            "run began with."
        )
    state: dict[str, dict[str, Any]] = {name: dict(values) for name, values in saved[_STATE].items()}
    for name, key, tensor in _read_tensors(folder / FOLDER, weights):
        state.setdefault(name, {})[key] = tensor
    place = {name: place for place, name in enumerate(name for group in mine for name in group)}
    groups = [
        _as_before(group, now) | {"params": [place[name] for name in group[_WEIGHTS]]}
        for group, now in zip(saved[_GROUPS], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(
        {"state": {place[name]: values for name, values in state.items()}, "param_groups": groups}
    )


def _read_tensors(folder: Path, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    _without_its_warning()
    reader = dcp.HuggingFaceStorageReader(str(folder))
    entries = reader.read_metadata().state_dict_metadata
    tensors = {name: _empty(entry, weights[name.rpartition(".")[0]]) for name, entry in entries.items()}
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    for name, tensor in tensors.items():
        weight, _, key = name.rpartition(".")
        yield weight, key, tensor


def _empty(entry: Any, weight: Tensor) -> Tensor:
    """A tensor to read into: sharded like the weight that it is of, or whole."""
    kind = entry.properties.dtype
    if entry.size == weight.shape and isinstance(weight, DTensor):
        return torch.empty_like(weight, dtype=kind, requires_grad=False)
    return torch.empty(entry.size, dtype=kind, device=weight.device if entry.size == weight.shape else None)


def _on_host(shard: DTensor, copy: Callable[[Tensor], Tensor]) -> DTensor:
    mesh = shard.device_mesh
    host = DeviceMesh("cpu", mesh.mesh, mesh_dim_names=mesh.mesh_dim_names, _init_backend=False)
    return DTensor.from_local(
        copy(shard.to_local()),
        host,
        shard.placements,
        run_check=False,
        shape=shard.shape,
        stride=shard.stride(),
    )


def _is_first_replica(mesh: DeviceMesh) -> bool:
    return mesh.ndim == 1 or mesh.get_local_rank(0) == 0


def _plain(group: Mapping[str, Any], name_of: Mapping[int, str]) -> dict[str, Any]:
    """A group for JSON, which knows neither tensors nor tuples."""
    options = {
        key: value.tolist() if isinstance(value, Tensor) else value
        for key, value in group.items()
        if key != "params"
    }
    return {**options, _WEIGHTS: [name_of[id(weight)] for weight in group["params"]]}


def _as_before(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Options from JSON in the types that an optimizer has them in."""
    found: dict[str, Any] = {}
    for key, value in saved.items():
        current = now.get(key)
        if isinstance(current, Tensor):
            found[key] = torch.tensor(value, dtype=current.dtype, device=current.device)
        else:
            found[key] = tuple(value) if isinstance(value, list) and key != _WEIGHTS else value
    return found


def _sizes(groups: list[list[str]]) -> str:
    return " + ".join(str(len(group)) for group in groups)


def _without_its_warning() -> None:
    # Ranks write and read by themselves, which is what it warns of.
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninit", UserWarning)
