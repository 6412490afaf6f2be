"""The files of a checkpoint: the weights that losses own, arguments, the trainer's state, random states.

The model writes its own folder; transformers reads the states of optimizer, schedule and scaler.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import safe_globals

from ray_st.training.strategies.step_module import LossOrLosses, owned_by_loss
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.util.secrets import with_secrets, without_secrets

LOSS_WEIGHTS = "loss.safetensors"
ARGUMENTS = "training_args.json"
_RANDOM_STATES = "rng_state_{rank}.pth"

RandomStates = dict[str, Any]


# ---- what accompanies the model ----


def save_loss_and_arguments(
    folder: Path, model: nn.Module, loss: LossOrLosses, args: SentenceTransformerTrainingArguments
) -> None:
    """Writes the training files that accompany the model's own files.

    Args:
        folder: The model's folder.
        model: The model.
        loss: The loss, or one for each dataset.
        args: Training arguments.
    """
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in owned_by_loss(model, loss).items()}
    if owned:
        save_file(owned, str(folder / LOSS_WEIGHTS))
    arguments = {key: value for key, value in args.to_dict().items() if key != "output_dir"}
    (folder / ARGUMENTS).write_text(json.dumps(arguments, indent=1, default=str))


def load_loss_weights(folder: str, model: nn.Module, loss: LossOrLosses) -> None:
    """Loads the weights that losses own, in place.

    Raises:
        ValueError: If the folder contains weights of other losses.
    """
    weights = Path(folder) / LOSS_WEIGHTS
    saved = load_file(str(weights)) if weights.exists() else {}
    owned = owned_by_loss(model, loss)
    if set(saved) != set(owned):
        raise ValueError(
            f"{weights}: expected the loss weights {sorted(owned)}, found {sorted(saved)}. "
            "Resume with the loss that the checkpoint was made with."
        )
    with torch.no_grad():
        for name, tensor in owned.items():
            tensor.copy_(saved[name])


def load_loss_weights_if_any(folder: str, model: nn.Module, loss: LossOrLosses, is_first: bool) -> None:
    """As :func:`load_loss_weights`, but for any model folder.

    If the folder has no weights of losses, the first rank logs which ones are new.
    """
    if (Path(folder) / LOSS_WEIGHTS).exists():
        load_loss_weights(folder, model, loss)
    elif (owned := owned_by_loss(model, loss)) and is_first:
        notes.info(f"{folder} has no {LOSS_WEIGHTS}: the loss's weights {sorted(owned)} are new")


# ---- the trainer's state: history, and the states that callbacks export, without secrets ----


def shown_state(state: TrainerState) -> TrainerState:
    """A copy of a trainer's state as it is now, without callbacks' secrets."""
    shown = copy(state)
    shown.log_history = list(state.log_history)
    shown.stateful_callbacks = without_secrets(state.stateful_callbacks)
    shown.trial_params = without_secrets(state.trial_params)
    return shown


def save_state(state: TrainerState, folder: Path) -> None:
    """Writes a trainer's state; secrets of callbacks are left out."""
    shown_state(state).save_to_json(str(folder / TRAINER_STATE_NAME))


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


# ---- random states: one file per rank ----


def random_states() -> RandomStates:
    """The states of this process's generators, of the GPU only its own device's."""
    states: RandomStates = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def save_states(folder: Path, states: Mapping[str, object]) -> None:
    """Writes states into a checkpoint, each into the file that names it."""
    for name, state in states.items():
        torch.save(state, folder / name)


def random_state_files(states: Sequence[RandomStates]) -> dict[str, RandomStates]:
    """The states of all ranks, by the name of their file."""
    return {_RANDOM_STATES.format(rank=rank): state for rank, state in enumerate(states)}


def load_random_states(checkpoint: str | None, rank: int) -> None:
    """Restores a rank's states; a rank without a file in the checkpoint keeps its own."""
    file = Path(checkpoint or "") / _RANDOM_STATES.format(rank=rank)
    if checkpoint is None or not file.is_file():
        return
    with safe_globals():
        states: RandomStates = torch.load(file, weights_only=True)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002  the global state is what libraries draw from
    torch.random.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(_of_own_device(states["cuda"]))


def _of_own_device(saved: Tensor | list[Tensor]) -> Tensor:
    """The state of this process's GPU; checkpoints of earlier versions have those of all GPUs of a node."""
    if isinstance(saved, Tensor):
        return saved
    return saved[min(torch.cuda.current_device(), len(saved) - 1)]
