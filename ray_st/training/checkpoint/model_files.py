"""The files of a trained model: its folder, the weights that losses own, and the arguments as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ray_st.training.strategies.step_module import LossOrLosses, owned_by_loss
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes

LOSS_WEIGHTS = "loss.safetensors"
ARGUMENTS = "training_args.json"


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
