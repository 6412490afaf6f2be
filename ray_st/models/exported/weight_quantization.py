"""ONNX files with weights of 8 bits; activations are quantized while they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_st.models.exported.backend_files import BackendFile
from ray_st.models.exported.backend_options import PROCESSORS
from ray_st.models.exported.graph_export import silent_exporters
from ray_st.util.packages import load_extra

_UNSIGNED = ("avx2",)
"""Processors whose sums of signed and unsigned products overflow."""

_OPERATORS = ["MatMul", "Gather"]
"""Matrix products and tables of embeddings."""


def settings_for(processor: str) -> dict[str, Any]:
    """Arguments of ``onnxruntime.quantization.quantize_dynamic`` for a processor.

    Args:
        processor: One of :data:`PROCESSORS`.

    Raises:
        ValueError: If there is no such processor.
    """
    if processor not in PROCESSORS:
        raise ValueError(
            f"quantization_config must be one of {', '.join(PROCESSORS)}, or a dict of arguments of "
            f"onnxruntime.quantization.quantize_dynamic; got {processor!r}."
        )
    return {"weight_type": "QUInt8" if processor in _UNSIGNED else "QInt8", "per_channel": True}


def suffix_of(settings: Mapping[str, Any], made_for: str) -> str:
    """What the name of a file says of its weights.

    Args:
        settings: Arguments of ``quantize_dynamic``.
        made_for: The processor, or another word.
    """
    return f"{str(settings.get('weight_type', 'QInt8')).rpartition('.')[2].lower()}_{made_for}"


def quantized(file: BackendFile, settings: Mapping[str, Any]) -> BackendFile:
    """An ONNX file with weights of 8 bits.

    Args:
        file: The file, in float32.
        settings: Arguments of ``onnxruntime.quantization.quantize_dynamic``; ``weight_type`` also by name.

    Raises:
        ImportError: If onnxruntime or onnx is not installed.
        ValueError: If ``quantize_dynamic`` does not take an argument.
    """
    load_extra("onnx", "onnx", "quantizing an ONNX file")
    quantization: Any = load_extra("onnxruntime.quantization", "onnx", "quantizing an ONNX file")
    kind = settings.get("weight_type", "QInt8")
    options = {
        "op_types_to_quantize": _OPERATORS,
        # The type of what operators of ONNX Runtime's own make, which onnx cannot infer.
        "extra_options": {"DefaultTensorType": 1},
        **settings,
        "weight_type": quantization.QuantType[kind] if isinstance(kind, str) else kind,
    }

    def quantize(path: Path, target: Path) -> None:
        try:
            quantization.quantize_dynamic(path, target, **options)
        except TypeError as error:
            raise ValueError(f"quantization_config: {error}.") from error

    with silent_exporters():
        return file.changed(quantize)
