"""The phases of a checkpoint that a thread writes, for tests that kill its process."""

from __future__ import annotations

from typing import Any

from ray_st.training.checkpoint.checkpointer import Checkpointer
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.loop import hf_loop

PHASES: dict[str, tuple[Any, str]] = {
    "the snapshot is taken": (Checkpointer, "begin"),
    "the model's files are written": (hf_loop, "save_states"),
    "all files are written, not hashed": (CheckpointStore, "add"),
    "all files are hashed, no manifest": (CheckpointStore, "declare"),
    "the manifest is written": (CheckpointStore, "rotate"),
}
"""What the first rank calls next at each phase: a function's owner and name."""

COMPLETE = "the manifest is written"
"""The phase from which on a run resumes from this checkpoint; before, from the one before it."""
