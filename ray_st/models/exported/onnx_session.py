"""Computes ONNX files with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ray_st.models.exported.backend_files import BackendFile
from ray_st.models.exported.backend_options import BackendOptions
from ray_st.models.folder_files import ModelFolderError
from ray_st.util.packages import load_extra

_CPU = "CPUExecutionProvider"
_GPUS = ("CUDAExecutionProvider", "ROCMExecutionProvider")
_SLOW_ON_CPU = ["SkipLayerNormFusion"]
"""Addition and normalization in one take ten times as long as one after the other: 4 against 0.5 ms for
2,048 vectors of MiniLM on one core (ONNX Runtime 1.32)."""


class OnnxSession:
    """An ONNX file, opened with ONNX Runtime.

    Args:
        file: The file.
        options: What the user asks for.

    Raises:
        ImportError: If onnxruntime is not installed.
        ModelFolderError: If it cannot open the file.
        ValueError: If it lacks the provider.
    """

    def __init__(self, file: BackendFile, options: BackendOptions) -> None:
        runtime: Any = load_extra("onnxruntime", "onnx", 'backend="onnx"')
        provider = chosen_provider(options.provider, runtime.get_available_providers())
        settings = options.session_options or _settings(runtime)
        if weights := file.weights:
            arrays = [value.numpy().tobytes() for value in weights.values()]
            settings.add_external_initializers_from_files_in_memory(
                list(weights), arrays, [*map(len, arrays)]
            )
        try:
            self._session = runtime.InferenceSession(
                file.main.numpy().tobytes(),
                settings,
                providers=[
                    (provider, dict(options.provider_options or {})),
                    *([] if provider == _CPU else [_CPU]),
                ],
                disabled_optimizers=_SLOW_ON_CPU if provider == _CPU else None,
            )
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise ModelFolderError(
                f"ONNX Runtime cannot open {file.name}: {str(error).splitlines()[0]}"
            ) from error
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        self.on_cpu = provider == _CPU

    def run(self, inputs: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        """One output, from all inputs by name."""
        (found,) = self._session.run([output], dict(inputs))
        return np.asarray(found)


def chosen_provider(asked: str | None, available: list[str]) -> str:
    """The execution provider: the one that is asked for, or that of a GPU if there is one, or the CPU's.

    Args:
        asked: What the user asks for.
        available: Those of this machine's ONNX Runtime.

    Raises:
        ValueError: If it lacks the one that is asked for.
    """
    if asked is None:
        gpus = (name for name in _GPUS if name in available)
        return next(gpus, _CPU) if torch.cuda.is_available() else _CPU
    if asked not in available:
        more = "; pip install onnxruntime-gpu brings CUDA's" if asked in _GPUS else ""
        raise ValueError(
            f"provider={asked!r} is not there; this ONNX Runtime has {', '.join(available)}{more}."
        )
    return asked


def _settings(runtime: Any) -> Any:
    """As many threads as torch uses: a process's share of the cores, which Ray limits for its workers."""
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return settings
