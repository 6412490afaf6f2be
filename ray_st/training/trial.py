"""A trial of a search as a training run: what its trainer is made from, and the data that it reads."""

from __future__ import annotations

from dataclasses import dataclass

from ray_st.training.data.run_data import RunData
from ray_st.training.trainer_spec import TrainerSpec


@dataclass(frozen=True)
class Trial:
    """A trial, ready to run.

    Args:
        data: What it trains and evaluates on.
        description: Makes its trainer on a worker.
    """

    data: RunData
    description: TrainerSpec
