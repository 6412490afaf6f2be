"""Gradient cache: activations of one mini-batch at a time, whatever the batch size.

All rows are embedded without a graph, and the loss's gradient with respect to the embeddings is computed as
usual. Then each mini-batch runs again, with the same random state and mixed precision, and propagates that
gradient to the weights (Gao et al. 2021, arXiv:2101.06983). All of this is one autograd node between weights
and embeddings, so everything that follows (gathering, truncating, scaling, accumulating) and everything that
waits for gradients (DDP reduces each once a step) sees an ordinary graph.

Whoever reduces gradients may say where they lie (:func:`accumulating_into`). Mini-batches are then added up
there, as ``weight.grad``, and there is no second copy of the gradients. Elsewhere they are added up in
tensors of their own, which become the weights' gradients, or what ``torch.autograd.grad`` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch._C import _will_engine_execute_node
from torch.func import functional_call
from torch.utils.checkpoint import get_device_states, set_device_states
from tqdm import tqdm

from ray_st.losses.embed import Chunks, call, embedding_of
from ray_st.util.host_facts import without_host_facts
from ray_st.util.tensors import AutogradContext

T = TypeVar("T")

Places: TypeAlias = Mapping[Tensor, Tensor]
"""For weights, memory for their gradients."""

_places: ContextVar[Places] = ContextVar("memory for gradients", default=MappingProxyType({}))


@contextmanager
def accumulating_into(places: Places) -> Iterator[None]:
    """Mini-batches of what is computed within this context are added up in given memory by ``backward()``.

    Args:
        places: For weights, a tensor like them that becomes their ``grad`` if they have none yet. Read, and
            overwritten, in the backward pass.
    """
    before = _places.set(places)
    try:
        yield
    finally:
        _places.reset(before)


@dataclass(frozen=True)
class CachedRun:
    """Runs a model on mini-batches without keeping activations; see :data:`ray_st.losses.embed.Run`.

    Attributes:
        show_progress_bar: Whether both passes show their progress.
    """

    show_progress_bar: bool = False

    def __call__(self, model: nn.Module, chunks: Chunks) -> Tensor:
        """The embeddings (n, d) of all chunks.

        Args:
            model: Maps features to a dict with ``sentence_embedding``.
            chunks: Features of each mini-batch.
        """
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not torch.is_grad_enabled() or not weights:
            return torch.cat([call(model, chunk) for chunk in self.progress(chunks)])
        leaf = torch.zeros((), requires_grad=True)
        return _Embed.apply(self, model, chunks, _places.get(), leaf, *weights)

    def progress(self, chunks: Iterable[T]) -> Iterable[T]:
        """The chunks, with a progress bar if requested."""
        return with_progress(chunks, self.show_progress_bar)


def with_progress(chunks: Iterable[T], shows: bool) -> Iterable[T]:
    """The mini-batches of a pass, with a progress bar if requested."""
    return tqdm(chunks, "mini-batches", leave=False) if shows else chunks


class _Context(AutogradContext, Protocol):
    run: CachedRun
    model: nn.Module
    chunks: Chunks
    places: Places
    states: list[ForwardState]
    next_functions: tuple[tuple[torch.autograd.graph.Node, int], ...]


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, run: CachedRun, model: nn.Module, chunks: Chunks, places: Places, *leaves: Tensor
    ) -> Tensor:
        _, *weights = leaves  # the first is a number that nobody else knows; see _adds_to_leaves
        ctx.run, ctx.model, ctx.chunks, ctx.places = run, model, chunks, places
        ctx.save_for_backward(*weights)  # a weight changed between the passes then raises
        ctx.states, embeddings = [], []
        for chunk in run.progress(chunks):
            ctx.states.append(ForwardState.now(chunk))
            with ctx.states[-1].mixed_precision():
                embeddings.append(call(model, chunk))
        return torch.cat(embeddings)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        names = [name for name, weight in ctx.model.named_parameters() if weight.requires_grad]
        places = ctx.places if _adds_to_leaves(ctx) else {}
        sums = {
            name: _Sum(weight, need, places)
            for name, weight, need in zip(names, ctx.saved_tensors, ctx.needs_input_grad[5:], strict=True)
        }
        stand_ins = {name: one.stand_in for name, one in sums.items()}
        done = 0
        for chunk, state in ctx.run.progress(list(zip(ctx.chunks, ctx.states, strict=True))):
            with torch.enable_grad(), state.again():
                embeddings = embedding_of(functional_call(ctx.model, stand_ins, (chunk,)))
            rows = slice(done, done + len(embeddings))
            done = rows.stop
            if embeddings.requires_grad:
                embeddings.backward(gradients[0][rows])
            del embeddings  # frees its graph before the next mini-batch's
        return (None, None, None, None, None, *(one.hand_over() for one in sums.values()))


def _adds_to_leaves(ctx: _Context) -> bool:
    """Whether this is a pass of ``backward()``, which adds to the ``grad`` of every weight.

    It reaches every leaf; ``torch.autograd.grad`` and ``backward(inputs=...)`` only those they are given.
    """
    (leaf, _), *_ = ctx.next_functions
    return bool(_will_engine_execute_node(leaf))


class _Sum:
    """The sum of a weight's gradients over all mini-batches.

    Hooks on the weight get it as one gradient. It is allocated before any activations: allocated among them,
    it would outlive the mini-batch and keep the heap from shrinking.

    Args:
        weight: The weight.
        need: Whether it needs a gradient.
        places: Memory for the gradients of weights.

    Attributes:
        stand_in: A tensor sharing the weight's memory that accumulates the gradients.
    """

    def __init__(self, weight: Tensor, need: bool, places: Places) -> None:
        self._weight, self._reached = weight, set[bool]()
        place = None if weight._backward_hooks or weight._post_accumulate_grad_hooks else places.get(weight)
        self._in_place = place is not None
        self.stand_in = weight.detach().requires_grad_(need)
        if not need:
            return
        if place is None:
            self.stand_in.grad = torch.zeros_like(weight)
        else:  # another batch or another node may have added to the gradient before
            self.stand_in.grad = place.zero_() if weight.grad is None else weight.grad
        reached = self._reached
        # A hook that held this object would close a cycle, and keep gradients until garbage is collected.
        self.stand_in.register_hook(lambda _: reached.add(True))

    def hand_over(self) -> Tensor | None:
        """What the node returns for the weight; None also if the weight has the gradient already."""
        if not self._reached:
            return None  # the weight's gradient stays as it was, which may be none
        if not self._in_place:
            return self.stand_in.grad
        self._weight.grad = self.stand_in.grad
        return None


@dataclass(frozen=True)
class ForwardState:
    """What a forward pass depends on besides its inputs: random state and mixed precision."""

    device: str
    cpu: Tensor
    devices: list[int]
    states: list[Tensor]
    autocast: tuple[bool, torch.dtype]

    @classmethod
    def now(cls, chunk: dict[str, Any]) -> ForwardState:
        """The current state, on the devices of a chunk's tensors."""
        tensors = [value for value in without_host_facts(chunk).values() if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        devices, states = get_device_states(*tensors[:1])  # all are on one device
        autocast = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        return cls(device, torch.get_rng_state(), devices, states, autocast)

    def mixed_precision(self) -> Any:
        """The context of the same mixed precision."""
        # Without autocast's cache of cast weights: one filled without a graph would detach the second pass
        # from its weights.
        enabled, dtype = self.autocast
        return torch.autocast(self.device, dtype=dtype, enabled=enabled, cache_enabled=False)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within this context random numbers and mixed precision are those of the forward pass."""
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(self.devices, device_type=self.device))
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states, device_type=self.device)
            stack.enter_context(self.mixed_precision())
            yield
