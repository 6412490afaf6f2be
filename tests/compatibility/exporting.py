"""Other backends than torch: arguments, the functions that export, and what is left to torch."""

from __future__ import annotations

from collections.abc import Mapping

from compatibility import signatures
from compatibility.table import Row, Section

FUNCTIONS = """\
export_optimized_onnx_model(model, optimization_config, model_name_or_path, push_to_hub, create_pr, file_suffix)
export_dynamic_quantized_onnx_model(model, quantization_config, model_name_or_path, push_to_hub, create_pr, file_suffix)
export_static_quantized_openvino_model(model, quantization_config, model_name_or_path, dataset_name, dataset_config_name, dataset_split, column_name, push_to_hub, create_pr, file_suffix)
"""  # fmt: skip
"""The documented functions, with their parameters."""

_FUNCTION_NOTES: Mapping[str, tuple[str, str]] = {
    "export_optimized_onnx_model": ("differs", "`O1` to `O4`; no `OptimizationConfig`, a class of optimum. On a CPU the levels leave out what takes longer there, and `O4` raises an error"),
    "export_dynamic_quantized_onnx_model": ("differs", "`arm64`, `avx2`, `avx512`, `avx512_vnni`; in place of optimum's `QuantizationConfig` a dict of arguments of `onnxruntime.quantization.quantize_dynamic`"),
    "export_static_quantized_openvino_model": ("differs", "in place of optimum's `OVQuantizationConfig` a dict of arguments of `nncf.quantize`, and `num_samples`. `dataset_name` may be a file, a `Dataset`, or a list of texts or pairs"),
}  # fmt: skip

KWARGS: Mapping[str, tuple[str, str]] = {
    "file_name": ("differs", "a missing file raises an error that lists those that are there (peer: exports the model)"),
    "subfolder": ("same", ""),
    "export": ("differs", "by default a model without the usual file is exported, with a warning; `False` raises an error instead"),
    "provider": ("differs", "by default CUDA's if torch sees a GPU, else the CPU's (peer: the first that ONNX Runtime was built with)"),
    "provider_options": ("same", ""),
    "session_options": ("same", "such a model cannot be sent to other processes; by default as many threads as torch uses"),
    "ov_config": ("differs", "by default computes in float32, also where the processor has bfloat16"),
    "dtype": ("refused", "other types than float32: on CPUs they are slower; int8 is faster"),
}  # fmt: skip
"""Entries of ``model_kwargs`` that backends understand; others raise an error."""


def sections() -> list[Section]:
    """The backends."""
    backends = [
        Row('backend="onnx"', "same", "of `SentenceTransformer`, `CrossEncoder` and `models.Transformer`; needs `ray-st[onnx]`"),
        Row('backend="openvino"', "same", "likewise; needs `ray-st[openvino]`"),
        Row("model.get_backend(), model.backend", "same"),
    ]  # fmt: skip
    kwargs = [Row(f'model_kwargs["{name}"]', *what) for name, what in KWARGS.items()]
    functions = signatures.rows(signatures.read(FUNCTIONS), _FUNCTION_NOTES)
    new = [
        Row("ray-st export", "new", "exports, optimizes, quantizes, and compares the files with the model")
    ]
    return [Section("Backends", _INTRO, [*backends, *kwargs, *functions, *new])]


_INTRO = """\
Of the navigation's pages on faster inference; see [Backends](backends.md). Files lie where the peer has them (`onnx/`, `openvino/`),
and files of the peer's are read. optimum is not used: its releases ask for transformers < 4.58."""
