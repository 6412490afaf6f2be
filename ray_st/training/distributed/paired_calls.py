"""Calls of a model in which every rank has to take part, made by ranks that have different numbers of them.

The layers of sharded weights are gathered for each call. Evaluators deal out their work, so that ranks run
out of it at different times: a rank that waits for the others then makes their calls with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ray_st.losses.embed import first_row
from ray_st.training.distributed.collectives import broadcast_object, sum_of_numbers
from ray_st.util.tensors import batch_to_device, on_host
from ray_st.world import World


class PairedCalls:
    """Pairs the calls of a model; every rank must create it.

    Before each call the ranks tell each other which of them are about to call. Those that wait instead call
    with a row of another rank, and drop the result.

    Args:
        model: Called with features, and keyword arguments.
        world: This rank and the number of ranks.

    Attributes:
        inside: Whether this rank is in the middle of a call, where the others wait for it.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._model, self._world = model, world
        self._fills = False
        self.inside = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within this context each call of the model is paired with one of every other rank."""
        handles = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def wait(self) -> None:
        """Takes part in the calls of the other ranks until all of them wait, too."""
        while callers := self._callers(False):
            features, options = self._shown_by(callers[0], None)
            device = next(self._model.parameters()).device
            self._fills = True
            try:
                with torch.no_grad():
                    self._model(batch_to_device(features, device), **options)
            finally:
                self._fills = False

    def _before(self, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self._fills:
            return
        callers = self._callers(True)
        if len(callers) < self._world.size:
            self._shown_by(callers[0], on_host((first_row(inputs[0]), options)))
        self.inside = True

    def _after(self, *_: object) -> None:
        self.inside = False

    def _callers(self, calls: bool) -> list[int]:
        """The ranks that are about to call."""
        mine = [float(calls and rank == self._world.rank) for rank in range(self._world.size)]
        return [rank for rank, flag in enumerate(sum_of_numbers(mine)) if flag]

    def _shown_by(self, rank: int, call: tuple[dict[str, Any], dict[str, Any]] | None) -> Any:
        """A row of a calling rank and its options, for those that wait."""
        return broadcast_object(call, rank)
