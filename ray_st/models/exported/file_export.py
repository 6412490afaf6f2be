"""The documented functions that write an optimized or quantized file beside a model, or to the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import HfApi

from ray_st.models.exported.backend_files import BackendFile, name_with
from ray_st.models.exported.calibrated_quantization import CALIBRATED, SAMPLES, calibrated
from ray_st.models.exported.calibration_texts import CalibrationTexts
from ray_st.models.exported.exported_module import ExportedModule, exported_parts
from ray_st.models.exported.graph_optimization import optimized
from ray_st.models.exported.processor import processor_of
from ray_st.models.exported.weight_quantization import quantized, settings_for, suffix_of
from ray_st.util.packages import load_extra

if TYPE_CHECKING:
    from ray_st.models.reranker.cross_encoder import CrossEncoder
    from ray_st.models.sentence_transformer import SentenceTransformer

_KINDS = ("SentenceTransformer", "CrossEncoder")


def export_optimized_onnx_model(
    model: SentenceTransformer | CrossEncoder,
    optimization_config: str,
    model_name_or_path: str | Path,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str | None = None,
) -> None:
    """Writes ``onnx/model_O3.onnx`` (or another level): the same model with fewer, faster operators.

    Args:
        model: A model with ``backend="onnx"``.
        optimization_config: "O1" (simplifications), "O2" (merged operators), "O3" (an approximation of GELU
            as well) or "O4" (half precision as well, for GPUs only).
        model_name_or_path: The model's folder, or its name on the Hub.
        push_to_hub: Whether the latter is meant.
        create_pr: Whether to open a pull request instead of committing.
        file_suffix: What follows ``model_`` in the file's name; by default the level.

    Raises:
        ImportError: If onnxruntime is not installed.
        ValueError: If the model has another backend, or the level is unknown or not for its device.
    """
    part = _part(model, "onnx", "export_optimized_onnx_model")
    made = optimized(part.file, optimization_config, part.on_cpu)
    _publish(made, file_suffix or optimization_config, model, model_name_or_path, push_to_hub, create_pr)


def export_dynamic_quantized_onnx_model(
    model: SentenceTransformer | CrossEncoder,
    quantization_config: str | Mapping[str, Any],
    model_name_or_path: str | Path,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str | None = None,
) -> None:
    """Writes ``onnx/model_qint8_avx512_vnni.onnx`` (or of another processor): weights in 8 bits.

    Args:
        model: A model with ``backend="onnx"``, in float32.
        quantization_config: The processor it is for, "arm64", "avx2", "avx512" or "avx512_vnni"; or a dict of
            arguments of ``onnxruntime.quantization.quantize_dynamic``.
        model_name_or_path: The model's folder, or its name on the Hub.
        push_to_hub: Whether the latter is meant.
        create_pr: Whether to open a pull request instead of committing.
        file_suffix: What follows ``model_`` in the file's name; by default type and processor.

    Raises:
        ImportError: If onnxruntime or onnx is not installed.
        ValueError: If the model has another backend or is quantized, or the configuration is not understood.
    """
    part = _part(model, "onnx", "export_dynamic_quantized_onnx_model")
    named = isinstance(quantization_config, str)
    settings = (
        settings_for(quantization_config) if isinstance(quantization_config, str) else quantization_config
    )
    suffix = file_suffix or suffix_of(settings, str(quantization_config) if named else "quantized")
    _publish(quantized(part.file, settings), suffix, model, model_name_or_path, push_to_hub, create_pr)


def export_static_quantized_openvino_model(
    model: SentenceTransformer | CrossEncoder,
    quantization_config: Mapping[str, Any] | None,
    model_name_or_path: str | Path,
    dataset_name: Any = None,
    dataset_config_name: str | None = None,
    dataset_split: str | None = None,
    column_name: str | Sequence[str] | None = None,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str = CALIBRATED,
) -> None:
    """Writes ``openvino/openvino_model_qint8_quantized.xml``: weights and activations in 8 bits.

    Args:
        model: A model with ``backend="openvino"``, in float32.
        quantization_config: Arguments of ``nncf.quantize``, and ``num_samples``, the number of texts by which
            ranges are found (default: 300). None for the defaults.
        model_name_or_path: The model's folder, or its name on the Hub.
        dataset_name: Where these texts are: a dataset of the Hub, a CSV, JSON Lines or Parquet file, a
            ``datasets.Dataset``, or a list of texts or pairs. By default, as in the peer, the sentences of
            "nyu-mll/glue" (sst2), which only the Hub has.
        dataset_config_name: The dataset's configuration.
        dataset_split: The dataset's split; "train" by default for a file.
        column_name: The column of texts; for a reranker also the two columns of its pairs.
        push_to_hub: Whether ``model_name_or_path`` is a name on the Hub.
        create_pr: Whether to open a pull request instead of committing.
        file_suffix: What follows ``openvino_model_`` in the file's name.

    Raises:
        ImportError: If openvino or nncf is not installed.
        ValueError: If the model has another backend, or there are no texts.
    """
    part = _part(model, "openvino", "export_static_quantized_openvino_model")
    settings = dict(quantization_config or {})
    texts = CalibrationTexts(dataset_name, dataset_config_name, dataset_split, column_name)
    batches = _batches(model, texts.read(int(settings.pop("num_samples", SAMPLES))), part)
    _publish(
        calibrated(part.file, batches, settings),
        file_suffix,
        model,
        model_name_or_path,
        push_to_hub,
        create_pr,
    )


def _part(model: Any, backend: str, function: str) -> ExportedModule:
    parts = exported_parts(model)
    if len(parts) != 1 or parts[0].backend != backend:
        found = " and ".join(sorted({part.backend for part in parts})) or "torch"
        raise ValueError(
            f"{function} needs a {' or '.join(_KINDS)} with one encoder, opened with backend={backend!r}; "
            f"this {type(model).__name__} has {len(parts) or 'no'} exported encoders, backend {found!r}."
        )
    if processor_of(parts[0].file.name) or "qint8" in parts[0].file.name:
        raise ValueError(f"{function} needs a model in float32; {parts[0].file.name} is quantized already.")
    return parts[0]


def _batches(model: Any, texts: Iterable[Any], part: ExportedModule) -> list[dict[str, np.ndarray]]:
    """The inputs of each text by itself: what it needs is no padding's business."""
    batches = [part.arrays(model.tokenize([text])) for text in texts]
    if not batches:
        raise ValueError("There are no texts to find the ranges of activations by.")
    return batches


def _publish(
    made: BackendFile,
    suffix: str,
    model: Any,
    name: str | Path,
    push_to_hub: bool,
    create_pr: bool,
) -> None:
    """Writes a file into a folder or a repository, under the usual name with a suffix."""
    named = _renamed(made, suffix)
    if not push_to_hub:
        named.write(Path(name))
        return
    with tempfile.TemporaryDirectory() as folder:
        named.write(Path(folder))
        HfApi().upload_folder(
            repo_id=str(name),
            folder_path=Path(folder) / made.backend,
            path_in_repo=made.backend,
            commit_message=f"Add exported {made.backend} model {named.name!r}",
            commit_description=(
                f"```python\nmodel = {type(model).__name__}({str(name)!r}, backend={made.backend!r}, "
                f"model_kwargs={{'file_name': {f'{made.backend}/{named.name}'!r}}})\n```"
            ),
            create_pr=create_pr,
        )


def _renamed(file: BackendFile, suffix: str) -> BackendFile:
    name = name_with(suffix, file.backend)
    if file.backend == "openvino":
        (weights,) = file.weights.values()
        return replace(file, contents={name: file.main, Path(name).with_suffix(".bin").name: weights})
    return replace(file, contents={name: file.main}) if not file.weights else _relocated(file, name)


def _relocated(file: BackendFile, name: str) -> BackendFile:
    """A file whose weights lie beside it, both with another name: the first says where the second is."""
    onnx: Any = load_extra("onnx", "onnx", "naming an ONNX file with weights beside it")
    (weights,) = file.weights.values()
    model = onnx.load_model_from_string(file.main.numpy().tobytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"{name}.data"
    main = torch.frombuffer(bytearray(model.SerializeToString()), dtype=torch.uint8)
    return replace(file, contents={name: main, f"{name}.data": weights})
