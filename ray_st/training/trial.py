"""A search trial as a training run: the description of its trainer, and its data."""

from __future__ import annotations

from dataclasses import dataclass

from ray_st.training.data.run_data import RunData
from ray_st.training.trainer_spec import TrainerSpec


@dataclass(frozen=True)
class Trial:
    """A trial, ready to run.

    Args:
        data: Its training and evaluation data.
        description: Rebuilds its trainer on a worker.
    """

    data: RunData
    description: TrainerSpec
