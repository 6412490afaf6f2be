"""OpenVINO files with weights and activations of 8 bits, whose ranges were found on example texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_st.models.exported.backend_files import BackendFile
from ray_st.models.exported.graph_export import silent_exporters
from ray_st.models.exported.openvino_packages import load_quietly, openvino_core

CALIBRATED = "qint8_quantized"
"""What the name of such a file says, as in the peer."""

SAMPLES = 300
"""Batches of one text by which ranges are found, as in optimum."""


def calibrated(
    file: BackendFile, batches: Sequence[Mapping[str, np.ndarray]], settings: Mapping[str, Any]
) -> BackendFile:
    """An OpenVINO file in 8 bits.

    Args:
        file: The file, in float32.
        batches: Inputs by name, of texts like those that it is for.
        settings: Arguments of ``nncf.quantize``.

    Raises:
        ImportError: If nncf is not installed.
        ValueError: If ``nncf.quantize`` does not take an argument.
    """
    openvino = load_quietly("openvino", "quantizing an OpenVINO file")
    nncf = load_quietly("nncf", "quantizing an OpenVINO file")
    options = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(batches), **settings}
    inputs = nncf.Dataset([dict(batch) for batch in batches])

    def quantize(path: Path, target: Path) -> None:
        model = openvino_core().read_model(path)
        try:
            made = nncf.quantize(model, inputs, **options)
        except TypeError as error:
            raise ValueError(f"quantization_config: {error}.") from error
        openvino.save_model(made, target, compress_to_fp16=False)

    with silent_exporters():
        return file.changed(quantize)
