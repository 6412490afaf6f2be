"""Computes OpenVINO's files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ray_st.models.exported.backend_files import BackendFile
from ray_st.models.exported.backend_options import BackendOptions
from ray_st.models.exported.openvino_packages import load_quietly, openvino_core
from ray_st.models.folder_files import ModelFolderError

DEVICE = "CPU"
DEFAULTS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
"""Settings for one batch after the other. Without the second, processors that have bfloat16 compute in it."""


class OpenVinoSession:
    """A file of OpenVINO, compiled for this machine's CPU.

    Args:
        file: The file and its weights.
        options: What the user asks for.

    Raises:
        ImportError: If openvino is not installed.
        ModelFolderError: If it cannot open the file.
    """

    def __init__(self, file: BackendFile, options: BackendOptions) -> None:
        openvino, core = load_quietly("openvino", 'backend="openvino"'), openvino_core()
        settings = {**DEFAULTS, "INFERENCE_NUM_THREADS": torch.get_num_threads(), **options.ov_config}
        (self._weights,) = file.weights.values()  # used while the model lives
        try:
            model = core.read_model(
                file.main.numpy().tobytes(), openvino.Tensor(self._weights.numpy(), shared_memory=True)
            )
            self._request = core.compile_model(model, DEVICE, settings).create_infer_request()
        except RuntimeError as error:
            raise ModelFolderError(f"OpenVINO cannot open {file.name}: {_reason(error)}") from error
        self.inputs = tuple(value.any_name for value in model.inputs)
        self.outputs = tuple(value.any_name for value in model.outputs)
        self.on_cpu = True

    def run(self, inputs: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        """One output, from all inputs by name."""
        found = self._request.infer(dict(inputs))
        return np.array(found[output])  # the request's own memory is used again


def _reason(error: RuntimeError) -> str:
    """The last line that says something: the others name OpenVINO's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
