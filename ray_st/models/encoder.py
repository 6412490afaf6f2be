"""Loading an encoder of transformers with all of its weights, from safetensors only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ray_st.models.files import ModelFolderError, check_weights

# Models with a decoder that embeddings don't need, and the class without it.
_ENCODER_HALF = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}


def load_config(folder: Path, trust_remote_code: bool, options: dict[str, Any]) -> PreTrainedConfig:
    """The encoder's configuration.

    Raises:
        ModelFolderError: If the folder has no config.json, or one that transformers cannot read.
    """
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder} is no model folder: it has neither modules.json nor config.json.")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    except (ValueError, OSError) as error:
        raise ModelFolderError(f"transformers cannot read {folder / 'config.json'}: {error}") from error


def load_encoder(
    folder: Path, config: PreTrainedConfig, trust_remote_code: bool, options: dict[str, Any]
) -> PreTrainedModel:
    """The encoder with its weights. A pooling layer of its own is left out: unused weights break distributed training.

    Args:
        folder: A folder in the format of transformers.
        config: Its configuration.
        trust_remote_code: Whether Python files in the folder may be run.
        options: More arguments of ``from_pretrained``, such as ``dtype``.

    Raises:
        ModelFolderError: If weights are missing, pickled, or of other shapes than the configuration says.
    """
    check_weights(folder)
    family = _model_class(config)
    without_pooler = {"add_pooling_layer": False} if _takes(family, config, "add_pooling_layer") else {}
    with quiet():
        model, found = family.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, by name
            **without_pooler,
            **options,
        )
    _check_complete(folder, found)
    return model


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Arguments with which a model keeps no keys, values or states for a next call: an embedding has none."""
    parameters = inspect.signature(type(model).forward).parameters
    more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    asks = "use_cache" in parameters or (more and hasattr(model.config, "use_cache"))
    return {
        name: False
        for name, wanted in (("use_cache", asks), ("use_mems", "use_mems" in parameters))
        if wanted
    }


def _model_class(config: PreTrainedConfig) -> Any:
    return getattr(transformers, _ENCODER_HALF.get(config.model_type, "AutoModel"))


def _takes(family: Any, config: PreTrainedConfig, argument: str) -> bool:
    if family is AutoModel:
        family = AutoModel._model_mapping.get(type(config), None)
    return inspect.isclass(family) and argument in inspect.signature(family.__init__).parameters


def _check_complete(folder: Path, found: dict[str, Any]) -> None:
    wrong = sorted(name for name, *_ in found["mismatched_keys"])
    missing = sorted(found["missing_keys"])
    if not wrong and not missing:
        return
    kind, names = ("of another shape than config.json says", wrong) if wrong else ("missing", missing)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise ModelFolderError(f"Weights in {folder} are {kind}: {', '.join(names[:5])}{more}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from reporting and showing bars while a model is read or written.

    What its report would say of missing weights is an error here; the rest (an unused pooler) is as intended.
    """
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
