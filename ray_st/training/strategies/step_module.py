"""The module that is wrapped for distributed training: the model and everything that its losses own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import xxhash
from torch import Tensor, nn

from ray_st.models.packed_weights import is_packed
from ray_st.models.stack import Stack

LossOrLosses = nn.Module | Mapping[str, nn.Module]


class Step(nn.Module):
    """Model and losses as one module, so that both are reduced across workers, clipped and optimized.

    Its forward runs any computation of the loss: whatever a trainer's subclass does in ``compute_loss``, the
    wrapper around this module (DDP, FSDP) sees the backward pass that follows.

    Args:
        model: The model in training.
        loss: The loss, or one for each dataset. A loss holds the model, whose parameters appear once.
    """

    def __init__(self, model: nn.Module, loss: LossOrLosses) -> None:
        super().__init__()
        self.model = model
        self.loss = nn.ModuleList(loss.values()) if isinstance(loss, Mapping) else loss  # names may have dots

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Runs one computation of the loss."""
        return compute()


def describe_weights(model: nn.Module) -> str:
    """The number of a model's weights and a hash of their names and shapes, to tell architectures apart.

    Packed weights do not count: their shapes change with the device.
    """
    plain = {name: weight for name, weight in model.named_parameters() if not is_packed(weight)}
    shapes = {name: tuple(weight.shape) for name, weight in plain.items()}
    values = sum(map(math.prod, shapes.values()))
    return f"{values:,} values in {len(shapes):,} tensors ({xxhash.xxh3_64_hexdigest(repr(shapes).encode())})"


def modules_of(model: nn.Module) -> list[nn.Module]:
    """The modules that a model calls one after the other; the model itself if it is not made of such."""
    return list(model.children()) if isinstance(model, Stack) else [model]


def losses_of(loss: LossOrLosses) -> dict[str, nn.Module]:
    """The losses by dataset name; the name of a single loss is empty."""
    return dict(loss) if isinstance(loss, Mapping) else {"": loss}


def loss_for(loss: LossOrLosses, dataset: str, label: str) -> nn.Module:
    """The loss of a dataset.

    Args:
        loss: One loss for all, or one for each dataset name.
        dataset: The dataset's name.
        label: Its name in error messages.

    Raises:
        ValueError: If losses are given by dataset name and there is none for this dataset.
    """
    if not isinstance(loss, Mapping):
        return loss
    if dataset not in loss:
        name = repr(dataset) if dataset else "a single dataset, which has no name"
        raise ValueError(f"{label}: loss is given for the datasets {list(loss)}, but not for {name}.")
    return loss[dataset]


def owned_by_loss(model: nn.Module, loss: LossOrLosses) -> dict[str, Tensor]:
    """Parameters and buffers of the losses that are not the model's, by name.

    A checkpoint stores these besides the model: classifiers, projections, learned scales. Tensors shared by
    several losses are named after the first.
    """
    seen = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    owned: dict[str, Tensor] = {}
    for dataset, part in losses_of(loss).items():
        prefix = f"{dataset}/" if dataset else ""
        for name, tensor in (*part.named_parameters(), *part.named_buffers()):
            if id(tensor) not in seen:
                owned[prefix + name] = tensor
                seen.add(id(tensor))
    return owned


def check_reached(model: nn.Module, loss: nn.Module) -> None:
    """Raises if the backward pass of a loss gave no model weight a gradient: nothing would be trained.

    Raises:
        ValueError: Naming the loss.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if trained and all(weight.grad is None for weight in trained):
        name = type(loss).__name__
        raise ValueError(
            f"{name} gave none of the model's {len(trained)} trained weights a gradient: it embeds with "
            "another model than the trainer's, or without gradient. Give a function that makes it: "
            f"loss=lambda model: {name}(model, ...)."
        )
