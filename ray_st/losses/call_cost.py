"""What one more call of a model costs, as the number of tokens that take the same time."""

from __future__ import annotations

import torch
from torch import nn

from ray_st.losses.model_facts import config_size

CPU_TOKENS = 80
"""On the CPU, for models of any width: a call reads the weights and adds to their gradients, which grows
like the work of a token.

Measured with all-MiniLM-L6-v2, forward and backward: 35 ms a call, 0.42 ms a token. On STS-B anything from
40 to 160 is as good within the noise.
"""

LAUNCH_S = 0.4e-3
"""Seconds to launch a layer's kernels, forward and backward: some 60 at 6 µs, an estimate."""

BANDWIDTH = 3e12
"""Bytes a second of an accelerator's memory; that of an H100."""

RATE = 2e14
"""Operations a second of an accelerator's matrix products in 16 bits; a fifth of an H100's peak."""

_PASSES, _BYTES = 6, 12  # operations a weight and token, with the backward pass; bytes a weight and call


def call_tokens(model: nn.Module, device: torch.device) -> int:
    """The cost of one more call, forward and backward, in tokens.

    On an accelerator, launching kernels costs small models as much as thousands of tokens, and reading
    weights and adding to their gradients costs any model as much as a hundred. Constants are estimates.

    Args:
        model: Its linear layers do the work; its ``config`` may state the number of layers.
        device: Where it runs.
    """
    if device.type == "cpu":
        return CPU_TOKENS
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    layers = config_size(model, "num_hidden_layers") or len(linear)
    weights = max(1, sum(part.weight.numel() for part in linear))
    return round((layers * LAUNCH_S + weights * _BYTES / BANDWIDTH) * RATE / (weights * _PASSES))
