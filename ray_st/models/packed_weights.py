"""Encoders whose weights are stored in 4 or 8 bits (quantized).

transformers opens them: ``model_kwargs={"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}``, or a
folder whose ``config.json`` has a ``quantization_config``. They embed, and adapters beside them can be
trained; their own weights cannot.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.quantization_config import QuantizationConfigMixin, QuantizationMethod

from ray_st.util.packages import load_extra

_BITS = ("load_in_4bit", "load_in_8bit")  # folders of early releases name no method


def check_quantization(folder: Path, asked: object) -> None:
    """Rejects a quantized encoder if the package for it is not installed, before any weight is read.

    Args:
        folder: The encoder's folder, for errors.
        asked: The ``quantization_config`` of its configuration or of the call; None for none.

    Raises:
        ImportError: If bitsandbytes is needed and missing; says what to install.
    """
    if _method(asked) == QuantizationMethod.BITS_AND_BYTES:
        package: Any = load_extra("bitsandbytes", "bitsandbytes", f"The quantization_config of {folder}")
        for kind in (package.nn.Params4bit, package.nn.Int8Params):
            copyreg.pickle(kind, _reduce)  # pickled as parameters are, they would become plain ones


def _method(asked: object) -> object:
    if isinstance(asked, QuantizationConfigMixin):
        return asked.quant_method
    if not isinstance(asked, Mapping):
        return None
    in_bits = any(asked.get(name) for name in _BITS)
    return asked.get("quant_method") or (QuantizationMethod.BITS_AND_BYTES if in_bits else None)


def _reduce(weight: nn.Parameter) -> tuple[Any, ...]:
    return _rebuilt, (type(weight), weight.detach().as_subclass(Tensor), vars(weight))


def _rebuilt(kind: type[nn.Parameter], values: Tensor, attributes: dict[str, Any]) -> Tensor:
    copyreg.pickle(kind, _reduce)
    weight: Tensor = values.as_subclass(kind)
    vars(weight).update(attributes)
    return weight


def is_quantized(encoder: nn.Module) -> bool:
    """Whether an encoder's weights are in fewer bits."""
    return bool(getattr(encoder, "is_quantized", False))  # set on such encoders alone


def quantized_encoders(model: nn.Module) -> list[PreTrainedModel]:
    """The quantized encoders in a model, also within a ``PeftModel``."""
    return [part for part in model.modules() if isinstance(part, PreTrainedModel) and is_quantized(part)]


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor holds the packed weights of bitsandbytes, which no other type can take over."""
    package = sys.modules.get("bitsandbytes")  # without it there are none
    return package is not None and isinstance(tensor, (package.nn.Params4bit, package.nn.Int8Params))


def unpacked_weights(module: nn.Module) -> list[nn.Parameter]:
    """The other weights of encoders that bitsandbytes has packed: embeddings, norms, adapters."""
    encoders = [part for part in quantized_encoders(module) if any(map(is_packed, part.parameters()))]
    return [weight for part in encoders for weight in part.parameters() if not is_packed(weight)]
