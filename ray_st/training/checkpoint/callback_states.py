"""The trainer's state in a checkpoint: history, and the states that callbacks export, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from ray_st.util.secrets import with_secrets, without_secrets


def save_state(state: TrainerState, folder: Path) -> None:
    """Writes a trainer's state; secrets of callbacks are left out."""
    shown = copy(state)
    shown.stateful_callbacks = without_secrets(state.stateful_callbacks)
    shown.trial_params = without_secrets(state.trial_params)
    shown.save_to_json(str(folder / TRAINER_STATE_NAME))


def export_callbacks(state: TrainerState, callbacks: Iterable[object]) -> None:
    """Stores in a trainer's state what its callbacks export.

    Args:
        state: The trainer's state.
        callbacks: Its callbacks, and its control, which exports its state in the same way.
    """
    for callback in callbacks:
        if not isinstance(callback, ExportableState):
            continue
        name, exported = type(callback).__name__, callback.state()
        states: Any = state.stateful_callbacks
        if isinstance(states[name], list):
            states[name].append(exported)
        else:
            states[name] = exported


def restore_callbacks(state: TrainerState, callbacks: Iterable[object]) -> None:
    """Restores the states that callbacks exported, each into its own callback.

    Args:
        state: The trainer's state, from a checkpoint.
        callbacks: As for :func:`export_callbacks`.
    """
    here = list(callbacks)
    stored: Any = state.stateful_callbacks
    for name, saved in stored.items():
        states = saved if isinstance(saved, list) else [saved]
        same = [callback for callback in here if type(callback).__name__ == name]
        for callback, written in zip(same, states, strict=False):
            live = callback.state() if isinstance(callback, ExportableState) else {}
            restored = with_secrets(written, live)
            fresh: Any = type(callback)
            attributes = {**vars(fresh(**restored.get("args", {}))), **restored.get("attributes", {})}
            vars(callback).update(attributes)
