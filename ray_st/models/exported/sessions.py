"""What computes an exported file, whatever the backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ray_st.models.exported.backend_files import BackendFile
from ray_st.models.exported.backend_options import BackendOptions


class Session(Protocol):
    """An opened file."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that it takes."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the arrays that it makes."""

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on the CPU."""

    def run(self, inputs: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        """One output, from all inputs by name."""


def open_session(file: BackendFile, options: BackendOptions) -> Session:
    """Opens a file with its backend.

    Args:
        file: The file.
        options: What the user asks for.

    Raises:
        ImportError: If the backend is not installed.
        ModelFolderError: If the file is not one of this backend.
        ValueError: If the provider is not there.
    """
    if options.backend == "onnx":
        from ray_st.models.exported.onnx_session import OnnxSession

        return OnnxSession(file, options)
    from ray_st.models.exported.openvino_session import OpenVinoSession

    return OpenVinoSession(file, options)
