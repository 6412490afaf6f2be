"""How many tokens go through a model in one call, from the size of the model and the memory of its device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

DEFAULT_TOKENS = 16_384
"""For models that don't tell their sizes."""

LEAST_TOKENS = 1024

UNLIMITED = 2**40
"""More tokens than any batch has."""

CPU_MEMORY = 2**30
"""Bytes of activations of one call on the CPU, where memory is shared with whatever else runs."""

DEVICE_SHARE = 0.25
"""Share of an accelerator's memory for the activations of one call."""


def default_budget(model: nn.Module) -> int:
    """Most tokens for one call whose activations are kept for a backward pass, at least 1024.

    Args:
        model: Its ``config`` tells its sizes in the words of transformers; without one the budget is 16,384.
    """
    need = activation_bytes(model)
    return DEFAULT_TOKENS if need is None else max(LEAST_TOKENS, _memory(model) // need)


def activation_bytes(model: nn.Module) -> int | None:
    """Bytes of activations that one token leaves behind for the backward pass; None if the model tells no sizes.

    Counted over the tensors that autograd saves for an encoder of BERT's kind: in each layer 12 vectors of the hidden
    size, 2 of the intermediate size, and 3 rows of attention weights a head. Without dropout it is about two thirds.

    Args:
        model: Its ``config`` tells its sizes, its ``max_seq_length`` the width of attention.
    """
    sizes = _sizes(getattr(model, "config", None))
    if sizes is None:
        return None
    layers, hidden, intermediate, heads = sizes
    width = min(getattr(model, "max_seq_length", None) or 512, 512)
    kind = next((weight.dtype for weight in model.parameters()), torch.float32)
    return layers * (12 * hidden + 2 * intermediate + 3 * heads * width) * kind.itemsize


def _sizes(config: Any) -> tuple[int, int, int, int] | None:
    hidden = getattr(config, "hidden_size", None)
    layers = getattr(config, "num_hidden_layers", None)
    if not hidden or not layers:
        return None
    heads = getattr(config, "num_attention_heads", None) or 1
    return layers, hidden, getattr(config, "intermediate_size", None) or 4 * hidden, heads


def _memory(model: nn.Module) -> int:
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    if device.type != "cuda":
        return CPU_MEMORY
    return int(torch.cuda.get_device_properties(device).total_memory * DEVICE_SHARE)
