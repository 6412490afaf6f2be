"""Loading an encoder of transformers: from safetensors only, complete, and without the decoder that embeddings do not need.

A ``config.json`` that asks for far more weights than the folder holds is refused before any memory is allocated for them.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ray_st.models.folder_files import WEIGHTS, ModelFolderError, check_weights, read_json

# Models that make the decoder's inputs from the text. Their folders, here and at the peer, embed with both halves.
_WHOLE = {"bart", "bigbird_pegasus", "fsmt", "led", "mbart", "mvp", "plbart"}


@dataclass(frozen=True)
class EncoderHalf:
    """How an encoder is loaded without its decoder.

    Args:
        family: Its class.
        config: Its configuration.
        key_mapping: Patterns of the names that its weights have in a folder of the whole model, and their names in the
            encoder; a folder of the encoder alone has the latter.
        constant: Names of weights that are neither trained nor, in some folders, there: tables of sines.
    """

    family: type[PreTrainedModel]
    config: PreTrainedConfig
    key_mapping: Mapping[str, str]
    constant: frozenset[str] = frozenset()


def encoder_half(config: PreTrainedConfig) -> EncoderHalf | None:
    """The encoder of a model with a decoder; None if the model is loaded whole."""
    two = config.is_encoder_decoder or getattr(type(config), "is_encoder_decoder", False)
    whole: Any = AutoModel._model_mapping.get(type(config), None) if two else None
    if not isinstance(whole, type) or config.model_type in _WHOLE:
        return None
    return _with_its_class(whole, config) or _taken_out(whole, config)


def _with_its_class(whole: type[PreTrainedModel], config: PreTrainedConfig) -> EncoderHalf | None:
    """A class for the encoder alone with the whole model's names of weights, such as ``T5EncoderModel``."""
    for name, family in vars(inspect.getmodule(whole)).items():
        if name.endswith("EncoderModel") and inspect.isclass(family) and issubclass(family, PreTrainedModel):
            if config.model_type == "t5gemma":  # the only one that asks its configuration what it is
                config = deepcopy(config)
                config.is_encoder_decoder = False
            return EncoderHalf(family, config, {})
    return None


def _taken_out(whole: type[PreTrainedModel], config: PreTrainedConfig) -> EncoderHalf | None:
    """The encoder's own class; its weights' names are the whole model's without the encoder's."""
    with torch.device("meta"):
        model = whole(config)
    encoder = model.get_encoder()
    if encoder is model or not isinstance(encoder, PreTrainedModel):
        return None
    name = next(name for name, module in model.named_modules() if module is encoder)
    front = rf"^(?:{re.escape(whole.base_model_prefix)}\.)?"
    names = {front + re.escape(f"{name}."): ""}
    for target, source in (model._tied_weights_keys or {}).items():  # embeddings shared with the decoder
        if target.startswith(f"{name}."):
            names[front + re.escape(source) + "$"] = target.removeprefix(f"{name}.")
    constant = frozenset(name for name, weight in encoder.named_parameters() if not weight.requires_grad)
    return EncoderHalf(type(encoder), encoder.config, names, constant)


_HALVES = ("encoder", "decoder", "num_encoder", "num_decoder")
_LAYERS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers", *(f"{half}_layers" for half in _HALVES)}
_LAYERS_A_TENSOR = 4  # ALBERT's layers share their weights
_WEIGHTS_A_NUMBER = 16  # packed weights hold several
_SMALL = 2**26  # weights that may be there or not: a pooler, a table of positions
_LARGE = 1024  # a dimension that is worth a look


@dataclass(frozen=True)
class Held:
    """The weights in a folder.

    Args:
        tensors: How many tensors there are.
        numbers: How many numbers they have.
        dimensions: The tensors' dimensions.
    """

    tensors: int
    numbers: int
    dimensions: frozenset[int]

    @classmethod
    def read(cls, folder: Path) -> Held:
        """Reads the headers of a folder's safetensors.

        Raises:
            ModelFolderError: If a file is damaged.
        """
        shapes: list[list[int]] = []
        whole = folder / WEIGHTS
        for file in [whole] if whole.is_file() else sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, "pt") as opened:
                    shapes += [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
            except SafetensorError as error:
                raise ModelFolderError(f"{file} is damaged: {error}.") from error
        return cls(
            len(shapes), sum(map(math.prod, shapes)), frozenset(size for shape in shapes for size in shape)
        )


def check_layers(folder: Path, saved: Mapping[str, Any], held: Held) -> None:
    """Refuses a config.json with far more layers than there are tensors: making them takes as long as there are many.

    Raises:
        ModelFolderError: If it has.
    """
    for name, value in _numbers(saved):
        if name in _LAYERS and value > _LAYERS_A_TENSOR * held.tensors + _LAYERS_A_TENSOR:
            raise ModelFolderError(
                f"{folder / 'config.json'} says {name}={value:.15g}, but the folder's weights are {held.tensors} tensors, "
                "too few for so many layers. Correct the number, or fetch the folder anew."
            )


def check_weights_asked(folder: Path, saved: Mapping[str, Any], config: PreTrainedConfig, held: Held) -> None:
    """Refuses a configuration that asks for far more weights than the folder holds.

    Raises:
        ModelFolderError: If it does.
    """
    if not any(value >= _LARGE and value not in held.dimensions for _, value in _numbers(saved)):
        return
    family: Any = AutoModel._model_mapping.get(type(config), None)
    if not isinstance(family, type):
        return
    with torch.device("meta"):
        asked = sum(weight.numel() for weight in family(config).parameters())
    if asked > _WEIGHTS_A_NUMBER * held.numbers + _SMALL:
        raise ModelFolderError(
            f"{folder / 'config.json'} asks for {asked} weights, but the folder holds {held.numbers}. Correct its sizes, "
            "or fetch the folder anew."
        )


def _numbers(saved: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in saved.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


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
