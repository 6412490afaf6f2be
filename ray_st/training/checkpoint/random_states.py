"""Random states in a checkpoint: one file per rank."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer_pt_utils import safe_globals

_FILE = "rng_state_{rank}.pth"

RandomStates = dict[str, Any]


def random_states() -> RandomStates:
    """The states of all generators of this process."""
    states: RandomStates = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.random.get_rng_state_all()
    return states


def save_random_states(folder: Path, states: Sequence[RandomStates]) -> None:
    """Writes the states of all ranks into a checkpoint."""
    for rank, state in enumerate(states):
        torch.save(state, folder / _FILE.format(rank=rank))


def load_random_states(checkpoint: str | None, rank: int) -> None:
    """Restores a rank's states; a rank without a file in the checkpoint keeps its own."""
    file = Path(checkpoint or "") / _FILE.format(rank=rank)
    if checkpoint is None or not file.is_file():
        return
    with safe_globals():
        states: RandomStates = torch.load(file, weights_only=True)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002  the global state is what libraries draw from
    torch.random.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.random.set_rng_state_all(states["cuda"])
