"""Counters kept during training: the parts of a loss, and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ray_st.training.distributed import collectives


class LossParts:
    """Means of the named parts of a loss, over steps and ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}

    def add(self, parts: Mapping[str, Tensor], weight: float) -> None:
        """Adds one step's parts, weighted by this rank's rows."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().double() * weight
            self._steps[name] = self._steps.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means since the last call. All ranks must call it; steps use the same dataset on all ranks."""
        found = {
            name: float(
                collectives.sum_over_ranks(total) / collectives.current_world().size / self._steps[name]
            )
            for name, total in sorted(self._sums.items())
        }
        self._sums, self._steps = {}, {}
        return found

    def sums(self) -> dict[str, tuple[float, int]]:
        """This rank's sums and step counts since the last call to :meth:`means`."""
        return {name: (float(total), self._steps[name]) for name, total in self._sums.items()}

    def restore(self, sums: Mapping[str, Sequence[float]], device: torch.device) -> None:
        """Restores the state returned by :meth:`sums`."""
        self._sums = {
            name: torch.tensor(total, dtype=torch.float64, device=device) for name, (total, _) in sums.items()
        }
        self._steps = {name: int(steps) for name, (_, steps) in sums.items()}


def tokens_of(inputs: Mapping[str, Any], padded: bool) -> int:
    """The number of tokens in the text columns of a step.

    Args:
        inputs: ``COLUMN_input_ids``, ``COLUMN_attention_mask``, …
        padded: Whether padding counts.

    Raises:
        ValueError: If there are no tokens among the inputs.
    """
    ids = {name: value for name, value in inputs.items() if name.endswith("input_ids")}
    if not ids:
        raise ValueError(
            "include_num_input_tokens_seen counts token ids, and the model's inputs have none: they are "
            f"{sorted(inputs)}. Leave it out."
        )
    if padded:
        return sum(value.numel() for value in ids.values())
    masks = {name: inputs.get(f"{name.removesuffix('input_ids')}attention_mask") for name in ids}
    return sum(
        ids[name].numel() if mask is None else int(mask.count_nonzero()) for name, mask in masks.items()
    )
