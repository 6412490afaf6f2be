"""How many tokens one call of a model takes, from the model's size and its device's memory."""

from __future__ import annotations

import torch
from torch import nn

from ray_st.losses.model_facts import config_setting, config_size, max_seq_length

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

    Counted over the tensors that autograd saves for encoders of BERT, ModernBERT, Qwen3, Llama and Gemma3, of
    which it is 0.9 to 1.6 times: in each layer 12 vectors of the hidden size and 2 of the intermediate size;
    14 and 4 if its feed-forward part has a gate; 4 and 1 fewer if no linear layer keeps its input, as frozen
    ones without adapters do not. Where attention weights are kept, 3 rows of them a head. With activation
    checkpointing one vector a layer, and one whole layer.

    Args:
        model: Its ``config`` states its sizes, its ``max_seq_length`` the width of attention.
    """
    layers, hidden = config_size(model, "num_hidden_layers"), config_size(model, "hidden_size")
    if not layers or not hidden:
        return None
    intermediate = config_size(model, "intermediate_size") or 4 * hidden
    vectors, wide = (14, 4) if _has_gate(model, hidden, intermediate) else (12, 2)
    frozen = _share_frozen(model)
    layer = int((vectors - 4 * frozen) * hidden + (wide - frozen) * intermediate)
    if _keeps_attention(model):
        heads = config_size(model, "num_attention_heads") or 1
        layer += 3 * heads * min(max_seq_length(model) or 512, 512)
    recomputes = any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
    kind = next((weight.dtype for weight in model.parameters()), torch.float32)
    return (layers * hidden + layer if recomputes else layers * layer) * kind.itemsize


def _has_gate(model: nn.Module, hidden: int, intermediate: int) -> bool:
    """Whether feed-forward parts multiply two projections, which may be made by one matrix."""
    up = [
        part.out_features
        for part in model.modules()
        if isinstance(part, nn.Linear) and part.in_features == hidden and part.out_features != hidden
    ]
    return 2 * intermediate in up or up.count(intermediate) > (config_size(model, "num_hidden_layers") or 0)


def _share_frozen(model: nn.Module) -> float:
    """The share of linear layers that keep no inputs, as neither they nor adapters of them are trained."""
    layers = dict(model.named_modules())
    linear = [name for name, part in layers.items() if isinstance(part, nn.Linear) and ".lora_" not in name]
    owners = [layers[name.removesuffix(".base_layer")] for name in linear]
    frozen = [owner for owner in owners if not any(weight.requires_grad for weight in owner.parameters())]
    return len(frozen) / len(linear) if linear else 0.0


def _keeps_attention(model: nn.Module) -> bool:
    """Whether attention weights are kept: where they are computed one by one, or dropped on the CPU."""
    if any(config_setting(model, name) for name in ("relative_attention", "relative_attention_num_buckets")):
        return True  # their gradient is that of what distances add to the scores, too
    kind = str(config_setting(model, "_attn_implementation"))
    if kind == "eager" or "flash" in kind:
        return kind == "eager"
    names = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "dropout_rate")
    drops = any(config_setting(model, name) for name in names)
    return drops and _device(model).type != "cuda"


def _memory(model: nn.Module) -> int:
    device = _device(model)
    if device.type != "cuda":
        return CPU_MEMORY
    # A process with a share of a GPU is limited to it, see ray_st.runtime.cluster.granted_device.
    mine = torch.cuda.get_per_process_memory_fraction(device)
    return int(torch.cuda.get_device_properties(device).total_memory * mine * DEVICE_SHARE)


def _device(model: nn.Module) -> torch.device:
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))
