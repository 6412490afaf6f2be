"""All communication between ranks while training, except for sharded weights.

Sharded weights communicate in :mod:`ray_st.training.strategies.sharding`.

No other file imports ``torch.distributed``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ray_st.losses.gradient_cache import accumulating_into
from ray_st.models.mapped_weights import MappedFiles
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.world import World

T = TypeVar("T")

_MOST_NAMES = 10


def current_world() -> World:
    """This process's rank in the process group, or a world of one without a group."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(rank=dist.get_rank(), size=dist.get_world_size())


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of a tensor over all ranks."""
    if _alone():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def sum_of_numbers(values: Sequence[float]) -> list[float]:
    """Sums over ranks of numbers in host memory, in float64; without waiting for a GPU if Gloo is there."""
    if _alone():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_device_of_numbers())
    dist.all_reduce(total)
    sums: list[float] = total.tolist()
    return sums


def largest_number(value: int) -> int:
    """The largest of all ranks' numbers; without waiting for a GPU if Gloo is there."""
    if _alone():
        return value
    largest = torch.tensor(value, device=_device_of_numbers())
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def _device_of_numbers() -> torch.device | None:
    on_host = "cpu:" in dist.get_backend_config()
    return torch.device("cpu") if on_host else torch.accelerator.current_accelerator()


def gather_objects(value: T) -> list[T]:
    """The value of every rank, in order of rank, on every rank."""
    if _alone():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: T, rank: int = 0) -> T:
    """The value of a rank, by default the first, on every rank."""
    if _alone():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=rank)
    return values[0]


class ThreadGroup:
    """All ranks once more, for threads that communicate while training does; every rank must create it.

    Training's own group is not safe to share: its collectives run in the order in which a rank starts them.
    """

    def __init__(self) -> None:
        self.group = None if _alone() else dist.new_group(backend="gloo")

    def gather_objects(self, value: T) -> list[T]:
        """The value of every rank, in order of rank, on every rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.group.size()
        dist.all_gather_object(values, value, group=self.group)
        return values


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all ranks, in order of rank, without gradients.

    Args:
        rows: (n, ...) this rank's rows; those beyond ``counts[rank]`` are ignored.
        counts: Number of rows of each rank.
    """
    if _alone():
        return rows[: counts[0]]
    return _gather(rows, counts)


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def _gather(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Gathers slices of unequal length, padded to the longest: gloo and NCCL need equal shapes."""
    mine = rows.new_zeros((max(counts), *rows.shape[1:]))
    count = counts[dist.get_rank()]
    mine[:count] = rows[:count].detach()
    parts = [torch.empty_like(mine) for _ in counts]
    dist.all_gather(parts, mine)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _GatherWithGradient(torch.autograd.Function):
    """Gathers rows; the gradient of a row is the sum of its gradients from all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts, ctx.rows = counts, len(rows)
        return _gather(rows, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        rank = dist.get_rank()
        start, count = sum(ctx.counts[:rank]), ctx.counts[rank]
        mine = total.new_zeros((ctx.rows, *total.shape[1:]))
        mine[:count] = total[start : start + count]
        return mine, None


class ClusterGather:
    """Gives losses the rows of the whole cluster.

    Before each step :meth:`share` sets how many rows each rank holds. A rank without rows holds one filler
    row, which never reaches the pool.
    """

    def __init__(self) -> None:
        self._world = current_world()
        self._counts: tuple[int, ...] = ()

    def share(self, counts: Sequence[int]) -> None:
        """Sets the number of rows of each rank in this step."""
        self._counts = tuple(counts)

    @property
    def idle(self) -> bool:
        """Whether this rank has only a filler row in this step."""
        return self._counts[self._world.rank] == 0

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        """The pool of all ranks' rows, differentiable, and where this rank's rows begin in it.

        Args:
            rows: (n, ...) this rank's rows.
        """
        if _alone():
            return rows, 0
        offset = sum(self._counts[: self._world.rank])
        if rows.requires_grad:
            return _GatherWithGradient.apply(rows, self._counts), offset
        return _gather(rows, self._counts), offset


def reduce_gradients(
    step: nn.Module, args: SentenceTransformerTrainingArguments, unused: bool = False
) -> nn.Module:
    """Wraps a module so that its gradients are averaged over ranks.

    Args:
        step: Model and losses.
        args: Training arguments; their ``ddp_*`` settings are passed on.
        unused: Whether some batches leave weights of the model unused, where the arguments do not say.
    """
    if _alone():
        return step
    said = args.ddp_find_unused_parameters
    options: dict[str, Any] = {
        "find_unused_parameters": unused if said is None else bool(said),
        # Earlier releases of transformers lack it.
        "static_graph": bool(getattr(args, "ddp_static_graph", False)),
        "gradient_as_bucket_view": True,  # no second copy of the gradients, and no copying
        "init_sync": False,
    }
    if args.ddp_broadcast_buffers is not None:
        options["broadcast_buffers"] = args.ddp_broadcast_buffers
    if args.ddp_bucket_cap_mb is not None:
        options["bucket_cap_mb"] = args.ddp_bucket_cap_mb
    share_weights(step)
    device_ids = [args.device] if args.device.type == "cuda" else None
    return _Reduced(step, device_ids=device_ids, **options)


class _Reduced(DistributedDataParallel):
    """Lets the gradient cache accumulate in the reducer's buckets.

    Gradients are views of the buckets only from their reduction until they are set to None. So the views are
    taken when buckets are made: with the module, and once again when the order of gradients is known.
    """

    def __init__(self, step: nn.Module, **options: Any) -> None:
        with _placing(step) as places:
            super().__init__(step, **options)
        self._places = places
        self._will_rebuild = False
        # Whoever looks for unused weights keeps its buckets.
        self._has_last_buckets = self.find_unused_parameters and not self.static_graph

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Runs the step's forward."""
        if torch.is_grad_enabled() and not self._has_last_buckets:
            if self._will_rebuild:
                self._take_last_buckets()
            self._will_rebuild = self.require_backward_grad_sync
        with accumulating_into(self._places):
            return super().forward(*inputs, **options)

    def _take_last_buckets(self) -> None:
        self._places.clear()  # otherwise there would be two sets of buckets for a moment
        with _placing(self.module) as places:
            self._has_last_buckets = self.reducer._rebuild_buckets()
        self._places.update(places)


@contextmanager
def _placing(step: nn.Module) -> Iterator[dict[Tensor, Tensor]]:
    """Collects the views of the buckets that are made within this context, by weight.

    New buckets take over gradients that exist, so weights without one get zeros, which take no memory.
    """
    weights = [weight for weight in step.parameters() if weight.requires_grad]
    without = [weight for weight in weights if weight.grad is None]
    for weight in without:
        weight.grad = weight.new_zeros(()).expand_as(weight)
    before = [weight.grad for weight in weights]
    places: dict[Tensor, Tensor] = {}
    try:
        yield places
        for weight, old in zip(weights, before, strict=True):
            if weight.grad is not None and weight.grad is not old:
                places[weight] = weight.grad
    finally:
        for weight in without:
            weight.grad = None


def share_weights(step: nn.Module) -> None:
    """Gives every rank the first rank's weights and buffers.

    Frozen weights that all ranks read from equal files are left as they are: written, each process would have
    a copy of its own.

    Args:
        step: Model and losses.
    """
    tensors = {**dict(step.named_parameters()), **dict(step.named_buffers())}
    alike = in_equal_files({name: one for name, one in tensors.items() if not one.requires_grad})
    for name, tensor in tensors.items():
        if name not in alike:
            values = tensor.detach().contiguous()  # gloo and NCCL take no others
            dist.broadcast(values, 0)
            tensor.detach().copy_(values)


def in_equal_files(tensors: Mapping[str, Tensor]) -> set[str]:
    """The names of the tensors that all ranks read from equal files, unchanged; every rank must call it."""
    files = MappedFiles()
    regions = {name: files.region_of(tensor) for name, tensor in tensors.items()}
    found = {name: (region.file.digest, region.offset) for name, region in regions.items() if region}
    everywhere = gather_objects(found)
    return {name for name in found if all(other.get(name) == found[name] for other in everywhere)}


class UnusedWeightsError(ValueError):
    """Trained weights are not used by a step's loss, so ranks would wait for their gradients forever."""


def check_reduced(step: nn.Module, number: int) -> None:
    """Raises if a step's gradients were not reduced, before the optimizer steps.

    PyTorch reports this only in the next step, and never after the last one.

    Args:
        step: Model and losses, after a backward pass that reduces gradients.
        number: The step's number.

    Raises:
        UnusedWeightsError: Naming the weights that this rank did not use.
    """
    if not isinstance(step, DistributedDataParallel) or step.static_graph:
        return
    try:
        step._check_reducer_finalized()
    except RuntimeError as error:
        found = re.search(r"did not receive grad for rank \d+: ([\d ]+)", str(error))
        if found is None:
            raise
        trained = [name for name, weight in step.module.named_parameters() if weight.requires_grad]
        unused = [trained[int(index)].removeprefix("model.") for index in found[1].split()]
        shown = unused[:_MOST_NAMES]
        more = f" and {len(unused) - len(shown)} more" if len(unused) > len(shown) else ""
        raise UnusedWeightsError(
            f"{len(unused)} of {len(trained)} trained weights took no part in the loss of step {number} on "
            f"rank {dist.get_rank()}: {shown}{more}. On several workers every gradient is the mean over all "
            "of them, and they wait for these. Freeze the weights (requires_grad_(False)) if no step uses "
            "them; set ddp_find_unused_parameters=True if only some steps do."
        ) from error
