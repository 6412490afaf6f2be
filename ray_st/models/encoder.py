"""Loading an encoder of transformers with all of its weights, from safetensors only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ray_st.models.encoder_half import encoder_half
from ray_st.models.files import ModelFolderError, check_weights, read_json
from ray_st.models.weight_sizes import Held, check_layers, check_weights_asked


def load_config(folder: Path, trust_remote_code: bool, options: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of the encoder whose weights a folder holds.

    Raises:
        ModelFolderError: If the folder has no config.json, one that transformers cannot read, or one that asks for far
            more than the folder's weights; or weights are missing or pickled.
    """
    saved = read_json(folder / "config.json")
    if not isinstance(saved, dict):
        raise ModelFolderError(f"{folder} is no model folder: it has neither modules.json nor config.json.")
    check_weights(folder)
    held = Held.read(folder)
    check_layers(folder, {**saved, **options}, held)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    except (ValueError, OSError) as error:
        raise ModelFolderError(f"transformers cannot read {folder / 'config.json'}: {error}") from error
    check_weights_asked(folder, {**saved, **options}, config, held)
    return config


def load_encoder(
    folder: Path, config: PreTrainedConfig, trust_remote_code: bool, options: dict[str, Any]
) -> PreTrainedModel:
    """The encoder with its weights. A pooling layer and a decoder are left out: unused weights break distributed training.

    Args:
        folder: A folder in the format of transformers.
        config: Its configuration.
        trust_remote_code: Whether Python files in the folder may be run.
        options: More arguments of ``from_pretrained``, such as ``dtype``.

    Raises:
        ModelFolderError: If weights are missing, or of other shapes than the configuration says.
    """
    half = encoder_half(config)
    family: Any = AutoModel if half is None else half.family
    own: dict[str, Any] = {} if half is None or not half.key_mapping else {"key_mapping": half.key_mapping}
    if _takes(family, config, "add_pooling_layer"):
        own["add_pooling_layer"] = False
    with quiet():
        model, found = family.from_pretrained(
            folder,
            config=config if half is None else half.config,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, by name
            **own,
            **options,
        )
    _check_complete(folder, found, half.constant if half else frozenset())
    if half is not None and half.key_mapping:
        model._weight_conversions = None  # saved under the encoder's own names, not the whole model's again
        for name in half.constant:  # what was not in the folder has lost its mark
            model.get_parameter(name).requires_grad_(False)
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


def _takes(family: Any, config: PreTrainedConfig, argument: str) -> bool:
    if family is AutoModel:
        family = AutoModel._model_mapping.get(type(config), None)
    return inspect.isclass(family) and argument in inspect.signature(family.__init__).parameters


def _check_complete(folder: Path, found: dict[str, Any], constant: Set[str]) -> None:
    """Refuses weights that don't fit or are not there; constant ones, such as tables of sines, need not be."""
    wrong = sorted(name for name, *_ in found["mismatched_keys"])
    missing = sorted(set(found["missing_keys"]) - constant)
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
