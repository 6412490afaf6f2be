"""Matrix products of encoders on AMD processors: oneDNN's kernels instead of MKL's, at twice the speed.

torch multiplies float32 matrices with MKL, whose kernels reach half of an AMD processor's peak: 92 against
200 GFLOPS on one core of an EPYC with AVX-512. torch includes oneDNN's kernels and uses them for other types;
here an encoder's linear layers use them for float32 too. Results differ only by rounding.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from ray_st.util.tensors import AutogradContext

LEAST_PRODUCTS = 2**20
"""Multiplications from which oneDNN is faster: below, its preparation takes longer than the product."""

_CPU_INFO = Path("/proc/cpuinfo")


def linear_layers_of(model: PreTrainedModel) -> AbstractContextManager[object]:
    """Within this context, linear layers of an encoder on the CPU multiply with oneDNN, if that is faster.

    It has no effect with activation checkpointing: torch compares what a layer saves the first and the second
    time, and the second time is outside of the context.

    Args:
        model: The encoder that runs.
    """
    # On a GPU the mode would only be in the way of each of a model's operations.
    helps = is_faster() and _is_on_cpu(model) and not _recomputes(model)
    helps = helps and not torch.compiler.is_compiling()
    return OneDnn() if helps else nullcontext()


def _is_on_cpu(model: PreTrainedModel) -> bool:
    return any(weight.device.type == "cpu" for weight in itertools.islice(model.parameters(), 1))


def _recomputes(model: PreTrainedModel) -> bool:
    now = getattr(model, "is_activation_checkpointing", None)
    return bool(model.is_gradient_checkpointing if now is None else now)  # the name in earlier releases


@functools.cache
def is_faster() -> bool:
    """Whether this process runs on an AMD processor with a torch that has both libraries."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    both = both and _product() is not None
    return both and _CPU_INFO.is_file() and "AuthenticAMD" in _CPU_INFO.read_text()


class OneDnn(TorchFunctionMode):
    """Sends float32 ``linear`` on the CPU to oneDNN; see :func:`linear_layers_of`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, or our replacement."""
        given = dict(kwargs or {})
        if func is torch.nn.functional.linear and _suits(*args, **given):
            return linear(*args, **given)
        return func(*args, **given)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as :func:`torch.nn.functional.linear`, value and gradient, for float32 on the CPU.

    Args:
        input: (..., k).
        weight: (n, k).
        bias: (n,), or None.

    Returns:
        (..., n).
    """
    return _Linear.apply(input, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _multiply(rows.flatten(0, -2), weight, bias).unflatten(0, rows.shape[:-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: AutogradContext, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        need_rows, need_weight, need_bias = ctx.needs_input_grad
        return (
            _multiply(flat, weight.t()).unflatten(0, rows.shape[:-1]) if need_rows else None,
            _multiply(flat.t(), rows.flatten(0, -2).t()) if need_weight else None,
            flat.sum(0) if need_bias else None,
        )


def _multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Left (m, k) times right (n, k) transposed."""
    product = _product()
    assert product is not None
    return product(left, right, bias, "none", [], "")


def _product() -> Callable[..., Any] | None:
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _suits(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return (
        all(type(part) in (Tensor, torch.nn.Parameter) for part in (input, weight))
        and input.device.type == weight.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and input.dim() > 1
        and input.numel() * weight.shape[0] >= LEAST_PRODUCTS
        and not torch.is_autocast_enabled("cpu")
    )
