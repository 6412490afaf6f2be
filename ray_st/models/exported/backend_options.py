"""What a user asks of a backend: which file, where it computes, whether to export anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BACKENDS = ("torch", "onnx", "openvino")
"""What computes a model's encoder or classifier."""

LEVELS = ("O1", "O2", "O3", "O4")
"""Of an ONNX file: simplifications; merged operators; an approximation of GELU; half precision as well."""

PROCESSORS = ("arm64", "avx2", "avx512", "avx512_vnni")
"""Instruction sets that int8 files of ONNX are made for."""

_SHARED = ("file_name", "subfolder", "export")
_OWN = {"onnx": ("provider", "provider_options", "session_options"), "openvino": ("ov_config",)}
_TYPES = ("dtype", "torch_dtype")
_ENOUGH = {"float32", "auto", "None"}


@dataclass(frozen=True)
class BackendOptions:
    """A backend and the entries of ``model_kwargs`` that it understands.

    Args:
        backend: "onnx" or "openvino".
        file_name: The exported file, within the model's folder or its folder for the backend.
        subfolder: Folder to look in instead of the model's.
        export: Whether to export anew even if there is a file (True), or to fail if there is none (False).
            By default a missing file is exported.
        provider: ONNX Runtime's execution provider; by default that of a GPU if there is one, else the CPU's.
        provider_options: Its options.
        session_options: An ``onnxruntime.SessionOptions``. By default as many threads as torch uses.
        ov_config: OpenVINO's settings by name, such as ``INFERENCE_PRECISION_HINT``.

    Raises:
        ValueError: If the backend is unknown.
    """

    backend: str
    file_name: str | None = None
    subfolder: str | None = None
    export: bool | None = None
    provider: str | None = None
    provider_options: Mapping[str, Any] | None = None
    session_options: Any = None
    ov_config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, backend: str, model_kwargs: Mapping[str, Any]) -> BackendOptions:
        """The options among the arguments that a user gives a model.

        Args:
            backend: "onnx" or "openvino".
            model_kwargs: The arguments.

        Raises:
            ValueError: If one means nothing to the backend, or asks for half precision.
        """
        given = dict(model_kwargs)
        for name in _TYPES:
            check_precision(str(given.pop(name, None)).removeprefix("torch."), backend)
        known = (*_SHARED, *_OWN[backend])
        if unknown := sorted(set(given) - {*known}):
            raise ValueError(
                f"model_kwargs[{unknown[0]!r}] means nothing to backend={backend!r}, which takes "
                f"{', '.join(known)}."
            )
        if isinstance(given.get("ov_config"), str | Path):
            given["ov_config"] = _read_settings(Path(given["ov_config"]))
        return cls(backend, **given)


def check_backend(backend: str) -> None:
    """Rejects a backend that does not exist.

    Raises:
        ValueError: Naming those that do.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}; got {backend!r}.")


def check_precision(dtype: str, backend: str) -> None:
    """Rejects types in which a CPU computes slower than in float32.

    Raises:
        ValueError: Saying what to ask for instead.
    """
    if dtype not in _ENOUGH:
        raise ValueError(
            f"backend={backend!r} computes in float32; dtype={dtype!r} is for GPUs, CPUs have no fast "
            "arithmetic for it. For speed on a CPU, quantize to int8: export_dynamic_quantized_onnx_model or "
            "export_static_quantized_openvino_model."
        )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"ov_config: expected a JSON file of OpenVINO's settings; {path}: {error}."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"ov_config: expected an object of OpenVINO's settings in {path}; got a {type(found).__name__}."
        )
    return found
