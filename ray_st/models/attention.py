"""Attention that packages beside PyTorch compute: which models want it, and whether this process has it.

"eager", "sdpa", "flex_attention" and the attention without padding come with PyTorch and this library.
"flash_attention_2" and its successors need a package and a GPU; a name such as
"kernels-community/flash-attn2" is code on the Hub, which the package kernels fetches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import torch
import transformers.utils
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils import is_kernels_available, is_torch_npu_available, is_torch_xpu_available

from ray_st.models.encoder_loading import setting_of

_FLASH = {
    "flash_attention_2": ("flash-attn", "flash_attn", "is_flash_attn_2_available"),
    "flash_attention_3": ("flash-attn-3", "flash_attn_interface", "is_flash_attn_3_available"),
    "flash_attention_4": ("flash-attn-4", "flash_attn", "is_flash_attn_4_available"),
}
"""For each flash attention: the package that brings it, its module, and the check of transformers."""

_KERNEL = re.compile(r"[^/:]+/[^/:]+(:[^/:]+)?")


@runtime_checkable
class _Guided(Protocol):
    """A loss with a model of its own."""

    @property
    def guide(self) -> Any: ...


def of_packages(modules: Iterable[nn.Module]) -> frozenset[str]:
    """The names of the attentions that models compute with and that PyTorch does not bring.

    Args:
        modules: Modules that hold the models.
    """
    parts = [part for module in modules for part in module.modules()]
    guides = [part.guide for part in parts if isinstance(part, _Guided)]  # losses hide them from modules()
    parts += [part for guide in guides if isinstance(guide, nn.Module) for part in guide.modules()]
    models = [part for part in parts if isinstance(part, PreTrainedModel)]
    names = {str(setting_of(model.config, "_attn_implementation")) for model in models}
    return frozenset(name for name in names if needs_gpu(name) or _is_kernel(name))


def needs_gpu(name: str) -> bool:
    """Whether an attention computes on GPUs only, whichever package brings it.

    Args:
        name: Its name among transformers' implementations.
    """
    return name in _FLASH


def fault_of(name: str) -> str | None:
    """Why this process cannot compute an attention; None if it can, as far as is known without trying.

    Args:
        name: A name of :func:`of_packages`.
    """
    with_kernels = is_kernels_available()
    if not needs_gpu(name):
        return None if with_kernels else "no version of the package kernels that transformers takes"
    package, module, check = _FLASH[name]
    if name == "flash_attention_2" and (
        # Without flash-attn transformers fetches the same from the Hub; these devices have their own.
        with_kernels or is_torch_npu_available() or is_torch_xpu_available()
    ):
        return None
    is_available = getattr(transformers.utils, check, None)  # older releases know fewer
    if is_available is not None and is_available():
        return None
    if find_spec(module) is None:
        return f"{package} is not installed"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    return f"transformers does not take the installed {package}"


@contextmanager
def explained(name: str | None) -> Iterator[None]:
    """Within this context, a model is opened: says what to do if this process lacks its attention.

    Args:
        name: The ``attn_implementation`` asked for, or None.

    Raises:
        ImportError: In place of transformers' own.
    """
    try:
        yield
    except ImportError as error:
        if name is None or not (needs_gpu(name) or _is_kernel(name)):
            raise
        raise ImportError(
            f"attn_implementation={name!r} cannot be used in this process: {fault_of(name) or error}. The "
            "driver of a run opens the model, too. Install the package and start this program on a node "
            "with a GPU (a Ray job with entrypoint_num_gpus), or leave attn_implementation out: most "
            "encoders then compute without padding, on GPUs in 16 bits with a kernel of PyTorch."
        ) from error


def register_kernel(model: PreTrainedModel) -> None:
    """Makes a model's attention from the Hub known to transformers, in a process that has not opened it.

    Args:
        model: A model that another process opened.

    Raises:
        ImportError: If the package kernels is missing.
        ValueError: If the Hub does not give the kernel.
    """
    name = setting_of(model.config, "_attn_implementation")
    if _is_kernel(str(name)) and name not in AttentionInterface().valid_keys():
        model.config._attn_implementation = "eager"  # what is set already is not looked for
        model.set_attn_implementation(name, allow_all_kernels=True)  # whoever opened the model allowed it


def _is_kernel(name: str) -> bool:
    return _KERNEL.fullmatch(name) is not None
