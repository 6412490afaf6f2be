"""Exports an encoder or classifier of transformers to ONNX or OpenVINO."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ray_st.models.encoder_loading import quiet, without_cache
from ray_st.models.exported.backend_files import DEFAULT_NAMES, BackendFile
from ray_st.models.exported.backend_options import BackendOptions
from ray_st.models.exported.openvino_packages import load_quietly
from ray_st.models.exported.sessions import open_session
from ray_st.models.folder_files import ModelFolderError
from ray_st.util.packages import load_extra

OPSET = 23
"""The first operator set of ONNX with attention as one operator, which ONNX Runtime computes in one pass."""

LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one ONNX file; larger ones lie beside it."""

NEAR = 1e-4
"""The largest difference between outputs of the exported and of the original model, relative to the largest
output of the latter."""

_CHECKED = ((1, 1), (3, 5), (2, 33))
"""Texts and tokens of the batches on which both are compared; what is exported has 2 of 7."""


class UnexportableModel(ModelFolderError):
    """A model that cannot be expressed in a backend's format."""


class _Called(nn.Module):
    """A model with positional arguments and one output: what exporters understand."""

    def __init__(self, model: PreTrainedModel, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output
        self.options = {**without_cache(model), "return_dict": True}
        # ONNX's operator for rotary positions takes a table for each text, not one for all.
        self.counts = any(name.endswith("rotary_emb") for name, _ in model.named_modules())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The output."""
        more: dict[str, Any] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if self.counts:
            more["position_ids"] = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        made = self.model(input_ids=input_ids, attention_mask=attention_mask, **more, **self.options)
        found: Tensor = getattr(made, self.output)
        return found


def export(model: PreTrainedModel, output: str, backend: str, has_types: bool) -> BackendFile:
    """Exports a model and compares the outputs of both.

    Args:
        model: The model, on the CPU, in float32.
        output: Name of its output.
        backend: "onnx" or "openvino".
        has_types: Whether its tokenizer makes ``token_type_ids``.

    Raises:
        ImportError: If a package for it is not installed.
        UnexportableModel: If the model cannot be expressed, or computes something else then.
    """
    called = _Called(model, output).eval()
    kind = type(model).__name__
    with tempfile.TemporaryDirectory() as folder, silent_exporters(), torch.no_grad():
        path = Path(folder) / DEFAULT_NAMES[backend]
        inputs = example(model, 2, 7, has_types)
        try:
            (_to_onnx if backend == "onnx" else _to_openvino)(called, inputs, output, path)
        except ImportError:
            raise
        except Exception as error:
            raise UnexportableModel(
                f"{kind} cannot be exported to {backend}: {_first_line(error)}. Use backend='torch'."
            ) from error
        file = BackendFile.read(backend, path).copied()
    _check(called, file, backend, has_types)
    return file


def example(model: PreTrainedModel, texts: int, tokens: int, has_types: bool) -> dict[str, Tensor]:
    """A batch of random tokens, in which every second text is padded.

    Args:
        model: The model.
        texts: Number of texts.
        tokens: Number of columns.
        has_types: Whether to add types.
    """
    generator = torch.Generator().manual_seed(texts * tokens)
    table: Any = model.get_input_embeddings()
    vocabulary = table.num_embeddings
    ids = torch.randint(0, vocabulary, (texts, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::2, (tokens + 1) // 2 :] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        **({"token_type_ids": torch.zeros_like(ids)} if has_types else {}),
    }


def _to_onnx(called: _Called, inputs: Mapping[str, Tensor], output: str, path: Path) -> None:
    load_extra("onnxscript", "onnx", "exporting to ONNX")
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        called,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=tuple(dynamic for _ in inputs),
        opset_version=OPSET,
        external_data=sum(weight.nbytes for weight in called.parameters()) > LARGEST,
        dynamo=True,
        verbose=False,
    )


def _to_openvino(called: _Called, inputs: Mapping[str, Tensor], output: str, path: Path) -> None:
    openvino = load_quietly("openvino", "exporting to OpenVINO")
    made = openvino.convert_model(called, example_input=dict(inputs))
    for place, name in zip(made.inputs, inputs, strict=True):
        place.get_tensor().set_names({name})
    made.outputs[0].get_tensor().set_names({output})
    openvino.save_model(made, path, compress_to_fp16=False)


def _check(called: _Called, file: BackendFile, backend: str, has_types: bool) -> None:
    session = open_session(file, BackendOptions(backend))
    with torch.no_grad(), silent_exporters():
        for texts, tokens in _CHECKED:
            inputs = example(called.model, texts, tokens, has_types)
            expected = called(**inputs)
            arrays = {name: inputs[name].numpy() for name in session.inputs}
            found = torch.from_numpy(session.run(arrays, called.output))
            if expected.dim() == 3:  # vectors of padding mean nothing
                expected, found = expected[inputs["attention_mask"] > 0], found[inputs["attention_mask"] > 0]
            apart = (expected - found).abs().max() / expected.abs().max()
            if not apart < NEAR:
                raise UnexportableModel(
                    f"{type(called.model).__name__} computes something else when exported to {backend}: "
                    f"of {texts} x {tokens} tokens outputs are {apart:.1e} apart. Use backend='torch'."
                )


@contextmanager
def silent_exporters() -> Iterator[None]:
    """Hides what exporters say of models' code and of each other, of which users can change nothing.

    Some log with the root logger, which then would get a handler that shows every message twice from then on.
    """
    root, none = logging.getLogger(), logging.NullHandler()
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "nncf")]
    levels, handlers = [logger.level for logger in loggers], root.handlers
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    root.handlers = [none]
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
