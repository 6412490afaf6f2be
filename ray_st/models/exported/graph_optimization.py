"""Optimization levels of ONNX files: operators are merged and constants folded, once for all starts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ray_st.models.exported.backend_files import BackendFile
from ray_st.models.exported.backend_options import LEVELS
from ray_st.models.exported.graph_export import silent_exporters
from ray_st.util.packages import load_extra

_HALF = (
    "O4 computes in half precision, for which CPUs have no fast arithmetic; it is for GPUs only, as its "
    "documentation says. Open the model with model_kwargs={'provider': 'CUDAExecutionProvider'} where there "
    "is a GPU, or choose O1, O2 or O3, or int8 with export_dynamic_quantized_onnx_model."
)


def optimized(file: BackendFile, level: str, on_cpu: bool) -> BackendFile:
    """An ONNX file that does the same with fewer, faster operators.

    Args:
        file: The file.
        level: One of :data:`LEVELS`.
        on_cpu: Whether it will compute on a CPU.

    Raises:
        ImportError: If onnxruntime is not installed.
        ValueError: If there is no such level, or it is not for CPUs.
    """
    if level not in LEVELS:
        raise ValueError(f"optimization_config must be one of {', '.join(LEVELS)}; got {level!r}.")
    if level == "O4" and on_cpu:
        raise ValueError(_HALF)
    with silent_exporters():
        return file.changed(_simplify if level == "O1" else partial(_merge, level, on_cpu))


def _simplify(path: Path, target: Path) -> None:
    runtime: Any = load_extra("onnxruntime", "onnx", "optimizing an ONNX file")
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(target)
    runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def _merge(level: str, on_cpu: bool, path: Path, target: Path) -> None:
    optimizer: Any = load_extra("onnxruntime.transformers.optimizer", "onnx", "optimizing an ONNX file")
    fusion: Any = load_extra("onnxruntime.transformers.fusion_options", "onnx", "optimizing an ONNX file")
    options = fusion.FusionOptions("bert")
    options.enable_shape_inference = (
        False  # it does not know attention as one operator, and says so on the screen
    )
    options.enable_gelu_approximation = level in ("O3", "O4")
    # On CPUs these take longer than what they replace, GELU with a bias twice as long (ONNX Runtime 1.32).
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = (
        options.enable_bias_gelu
    ) = not on_cpu
    model = optimizer.optimize_model(
        str(path), "bert", opt_level=0, optimization_options=options, use_gpu=not on_cpu
    )
    if level == "O4":
        model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(
        str(target), use_external_data_format=path.with_name(f"{path.name}.data").exists()
    )
