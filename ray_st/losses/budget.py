"""How many tokens one call of a model takes, from the model's size and its device's memory."""

from __future__ import annotations

import torch
from torch import nn

from ray_st.losses.model_facts import config_size, max_seq_length

DEFAULT_TOKENS = 16_384
"""Budget of models whose configuration does not state their sizes."""

LEAST_TOKENS = 1024

CPU_MEMORY = 2**30
"""Bytes of activations of one call on the CPU, where memory is shared with whatever else runs."""

DEVICE_SHARE = 0.25
"""Share of the accelerator memory that a process may use for the activations of one call."""


def default_budget(model: nn.Module) -> int:
    """Token budget of one call whose activations are kept for the backward pass; at least 1024.

    Args:
        model: Its ``config`` states its sizes by the names of transformers; without one the budget is 16,384.
    """
    need = activation_bytes(model)
    return DEFAULT_TOKENS if need is None else max(LEAST_TOKENS, _memory(model) // need)


def activation_bytes(model: nn.Module) -> int | None:
    """Bytes of activations kept per token for the backward pass; None if the model does not state its sizes.

    Counted over the tensors that autograd saves for an encoder of BERT's kind: in each layer 12 vectors of
    the hidden size, 2 of the intermediate size, and 3 rows of attention weights a head. Without dropout it is
    about two thirds.

    Args:
        model: Its ``config`` states its sizes, its ``max_seq_length`` the width of attention.
    """
    layers, hidden = config_size(model, "num_hidden_layers"), config_size(model, "hidden_size")
    if not layers or not hidden:
        return None
    intermediate = config_size(model, "intermediate_size") or 4 * hidden
    heads = config_size(model, "num_attention_heads") or 1
    width = min(max_seq_length(model) or 512, 512)
    kind = next((weight.dtype for weight in model.parameters()), torch.float32)
    return layers * (12 * hidden + 2 * intermediate + 3 * heads * width) * kind.itemsize


def _memory(model: nn.Module) -> int:
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    if device.type != "cuda":
        return CPU_MEMORY
    # A process with a share of a GPU is limited to it, see ray_st.runtime.cluster.granted_device.
    mine = torch.cuda.get_per_process_memory_fraction(device)
    return int(torch.cuda.get_device_properties(device).total_memory * mine * DEVICE_SHARE)
