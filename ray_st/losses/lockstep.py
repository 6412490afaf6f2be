"""Calls of a model that all ranks make together: as many on each, forward and backward, in one order.

Sharded weights are gathered for each call, in which every rank takes part. Ranks whose rows need fewer calls
than those of others make up for it with fillers, which change neither a value nor a gradient. Each call has a
backward pass of its own, so that its gradients are reduced to shards before those of the next call arise. All
of these passes are one autograd node between weights and embeddings, as in
:mod:`ray_st.losses.gradient_cache`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ray_st.losses.embed import Chunks, call, first_row
from ray_st.losses.gradient_cache import ForwardState, with_progress
from ray_st.util.tensors import AutogradContext

T = TypeVar("T")


class Lockstep(Protocol):
    """What ranks that make their calls together agree on."""

    def most(self, calls: int) -> int:
        """The largest number of calls of any rank; every rank must call it.

        Args:
            calls: How many this rank's rows need.
        """

    def recomputing(self) -> AbstractContextManager[None]:
        """Opened while a call of a forward pass runs again, within a backward pass."""


@dataclass(frozen=True)
class LockstepRun:
    """Runs a model on chunks in step with the other ranks; see :data:`ray_st.losses.embed.Run`.

    Attributes:
        lockstep: The agreement with the other ranks.
        recomputes: Whether activations are computed again in the backward pass instead of kept.
        show_progress_bar: Whether passes show their progress.
    """

    lockstep: Lockstep
    recomputes: bool = False
    show_progress_bar: bool = False

    def __call__(self, model: nn.Module, chunks: Chunks) -> Tensor:
        """The embeddings (n, d) of all chunks.

        Args:
            model: Maps features to a dict with ``sentence_embedding``.
            chunks: Features of each call; at least one.
        """
        fillers = self.lockstep.most(len(chunks)) - len(chunks)
        calls = [*chunks, *[first_row(chunks[0])] * fillers]
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in model.parameters()):
            # The weights get their gradients during the backward pass: a number stands in for them.
            return _Calls.apply(self, model, calls, len(chunks), torch.zeros((), requires_grad=True))
        embeddings = [call(model, features) for features in self.progress(calls)]
        return torch.cat(embeddings[: len(chunks)])

    def progress(self, calls: list[T]) -> Iterable[T]:
        """The calls, with a progress bar if requested."""
        return with_progress(calls, self.show_progress_bar)


class _Context(AutogradContext, Protocol):
    run: LockstepRun
    model: nn.Module
    calls: list[_Call]


@dataclass
class _Call:
    """A call of a forward pass.

    Attributes:
        features: Its inputs.
        state: The random state and mixed precision that it began with.
        embeddings: What it gave, (n, d), with its graph; None if that has to be computed again.
        rows: Where its gradient is among all calls'; None for a filler.
    """

    features: dict[str, Any]
    state: ForwardState
    embeddings: Tensor | None
    rows: slice | None


class _Calls(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, run: LockstepRun, model: nn.Module, chunks: Chunks, real: int, anchor: Tensor
    ) -> Tensor:
        ctx.run, ctx.model, ctx.calls = run, model, []
        found: list[Tensor] = []
        done = 0
        for number, features in enumerate(run.progress(chunks)):
            state = ForwardState.now(features)
            with state.mixed_precision(), torch.set_grad_enabled(not run.recomputes):
                embeddings = call(model, features)
            rows = slice(done, done + len(embeddings)) if number < real else None
            done += len(embeddings)
            ctx.calls.append(_Call(features, state, None if run.recomputes else embeddings, rows))
            found.append(embeddings.detach())
        return torch.cat(found[:real])

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        calls, ctx.calls = ctx.calls[::-1], []
        for one in ctx.run.progress(calls):
            embeddings, one.embeddings = one.embeddings, None
            if embeddings is None:
                with torch.enable_grad(), one.state.again(), ctx.run.lockstep.recomputing():
                    embeddings = call(ctx.model, one.features)
            if embeddings.requires_grad:
                filler = torch.zeros_like(embeddings)
                embeddings.backward(filler if one.rows is None else gradients[0][one.rows])
            del embeddings  # frees its graph before the next call's
        return None, None, None, None, None
