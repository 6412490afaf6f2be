"""Opens the exported file of a model's folder, or exports the model now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ray_st.models.encoder_loading import setting_of
from ray_st.models.exported.backend_files import BackendFile, find_file
from ray_st.models.exported.backend_options import BackendOptions
from ray_st.models.exported.exported_module import ExportedModule
from ray_st.models.exported.graph_export import export
from ray_st.models.folder_files import PICKLED, WEIGHTS, WEIGHTS_INDEX, ModelFolderError
from ray_st.models.positions import table_limit


def open_exported(
    folder: Path,
    output: str,
    options: BackendOptions,
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    empty: Callable[[], PreTrainedModel],
    load: Callable[[], PreTrainedModel],
) -> ExportedModule:
    """The module that computes with the exported file of a folder, which is made now if there is none.

    Args:
        folder: A folder in the format of transformers; with an exported file it may lack weights for torch.
        output: Name of the output that is needed.
        options: What the user asks for.
        tokenizer: Gives the folder's tokenizer.
        empty: Makes the model without its weights.
        load: Loads it with its weights in float32.

    Raises:
        ModelFolderError: If there is neither a file nor weights, the file cannot be opened, or the model
            cannot be exported.
        ImportError: If the backend is not installed.
    """
    path = find_file(folder, options, has_weights(folder))
    if path is None:
        model = load()
        file = export(model, output, options.backend, makes_types(tokenizer()))
    else:
        with torch.device("meta"):
            model = empty()
        file = BackendFile.read(options.backend, path)
    if setting_of(model.config, "output_hidden_states"):
        raise ModelFolderError(
            f"{folder} asks for the vectors of all layers (output_hidden_states), but an exported file makes "
            "those of the last one. Use backend='torch'."
        )
    return ExportedModule(model.config, output, file, options, table_limit(model))


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights for torch, readable or not: then it need not have an exported file."""
    return any((folder / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX, *PICKLED))


def makes_types(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer makes ``token_type_ids``."""
    return "token_type_ids" in tokenizer.model_input_names
