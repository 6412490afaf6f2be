"""Loading an encoder of transformers: from safetensors only, with all its weights, without its decoder.

A ``config.json`` that asks for far more weights than the folder holds is rejected before memory is allocated
for them.
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
from threading import Lock, RLock
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ray_st.models.folder_files import WEIGHTS, ModelFolderError, check_weights, read_json
from ray_st.models.packed_weights import check_quantization
from ray_st.util.value_checks import is_number

# Models that make the decoder's inputs from the text. Here and in the peer they embed with both halves.
_WHOLE = {"bart", "bigbird_pegasus", "fsmt", "led", "mbart", "mvp", "plbart"}

_HALVES = ("encoder", "decoder", "num_encoder", "num_decoder")
_LAYERS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers", *(f"{half}_layers" for half in _HALVES)}
_LAYERS_A_TENSOR = 4  # ALBERT's layers share their weights
_WEIGHTS_A_NUMBER = 16  # packed weights hold several
_SMALL = 2**26  # weights that may be missing: a pooler, a table of positions
_LARGE = 1024  # smaller dimensions are not checked


def load_config(folder: Path, trust_remote_code: bool, options: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of the encoder whose weights a folder holds.

    Raises:
        ModelFolderError: If the folder has no config.json, or one that transformers cannot read or that asks
            for far more than the folder's weights; or if weights are missing or pickled.
    """
    saved = _saved_config(folder)
    check_weights(folder)
    held = Held.read(folder)
    check_layers(folder, {**saved, **options}, held)
    config = read_config(folder, trust_remote_code, options)
    check_weights_asked(folder, {**saved, **options}, config, held)
    return config


def read_config(folder: Path, trust_remote_code: bool, options: dict[str, Any]) -> PreTrainedConfig:
    """The configuration in a folder that may lack weights for torch.

    Raises:
        ModelFolderError: If the folder has no config.json, or one that transformers cannot read.
    """
    _saved_config(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    except (ValueError, OSError) as error:
        raise ModelFolderError(f"transformers cannot read {folder / 'config.json'}: {error}") from error


def _saved_config(folder: Path) -> dict[str, Any]:
    saved = read_json(folder / "config.json")
    if not isinstance(saved, dict):
        raise ModelFolderError(
            f"{folder} is not a model folder: it has neither modules.json nor config.json."
        )
    return saved


def empty_encoder(config: PreTrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    """The encoder that :func:`load_encoder` makes, without its weights.

    Args:
        config: The model's configuration.
        trust_remote_code: Whether Python files in its folder may be run.
    """
    half = encoder_half(config)
    if half is not None:
        return half.family(half.config)
    made: PreTrainedModel = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    return made


def load_encoder(
    folder: Path, config: PreTrainedConfig, trust_remote_code: bool, options: dict[str, Any]
) -> PreTrainedModel:
    """The encoder with its weights, without pooling layer and decoder.

    Unused weights would break distributed training.

    Args:
        folder: A folder in the format of transformers.
        config: Its configuration.
        trust_remote_code: Whether Python files in the folder may be run.
        options: More arguments of ``from_pretrained``, such as ``dtype``.

    Raises:
        ModelFolderError: If weights are missing, their shapes differ from the configuration, or nothing
            computes in their type.
        ImportError: If the encoder is quantized and the package for that is not installed, or this process
            lacks what its attention needs.
    """
    asked = options.get("quantization_config") or setting_of(config, "quantization_config")
    check_quantization(folder, asked)
    check_type(folder, config, options)
    half = encoder_half(config)
    family: Any = AutoModel if half is None else half.family
    own: dict[str, Any] = {} if half is None or not half.key_mapping else {"key_mapping": half.key_mapping}
    made = _class_of(config) if half is None else half.family
    if made is not None and "add_pooling_layer" in inspect.signature(made.__init__).parameters:
        own["add_pooling_layer"] = False
    with LOADING, quiet():
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
    check_complete(folder, found, half.constant if half else frozenset())
    if half is not None and half.key_mapping:
        model._weight_conversions = None  # save under the encoder's names, not those of the whole model
        for name in half.constant:  # weights that were not in the folder have become trainable
            model.get_parameter(name).requires_grad_(False)
    return model


def check_type(folder: Path, config: PreTrainedConfig, options: Mapping[str, Any]) -> None:
    """Rejects weights of a type in which no layer computes.

    Raises:
        ModelFolderError: Says how to open the folder in another type.
    """
    asked = options.get("dtype", options.get("torch_dtype"))
    kind = config.dtype if asked in (None, "auto") else asked
    name = str(kind).removeprefix("torch.")
    if name.startswith("float8") and setting_of(config, "quantization_config") is None:
        raise ModelFolderError(
            f"{folder}: the encoder's weights would be of type {name}, in which no layer computes. Open it "
            'in another type, with model_kwargs={"torch_dtype": torch.bfloat16}.'
        )


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Arguments that keep a model from caching keys, values or states for a next call."""
    parameters = inspect.signature(type(model).forward).parameters
    more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = {"use_cache", "use_mems"} & set(parameters)
    if more and setting_of(model.config, "use_cache") is not None:
        names.add("use_cache")
    return dict.fromkeys(sorted(names), False)


def setting_of(
    config: PreTrainedConfig | type[PreTrainedConfig], name: str, default: bool | None = None
) -> Any:
    """A setting that not every configuration has."""
    return getattr(config, name, default)


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that ``AutoModel`` makes of a configuration; None if it cannot say beforehand."""
    found = AutoModel._model_mapping.get(type(config), None)
    return found if isinstance(found, type) else None


def check_complete(folder: Path, found: dict[str, Any], constant: Set[str]) -> None:
    """Raises for weights that do not fit or are missing.

    Args:
        folder: The model's folder.
        found: What ``from_pretrained`` reports with ``output_loading_info``.
        constant: Names of weights that may be missing.

    Raises:
        ModelFolderError: Naming the first of them.
    """
    wrong = sorted(name for name, *_ in found["mismatched_keys"])
    missing = sorted(set(found["missing_keys"]) - constant)
    if not wrong and not missing:
        return
    kind, names = ("of another shape than config.json says", wrong) if wrong else ("missing", missing)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise ModelFolderError(f"Weights in {folder} are {kind}: {', '.join(names[:5])}{more}.")


class _Quiet:
    """Silences transformers while any thread asks for it: its settings are those of the whole process."""

    def __init__(self) -> None:
        self._lock, self._held = Lock(), 0
        self._level, self._bars = 0, False

    def begin(self) -> None:
        with self._lock:
            if not self._held:
                self._level = transformers_logging.get_verbosity()
                self._bars = transformers_logging.is_progress_bar_enabled()
                transformers_logging.set_verbosity_error()
                transformers_logging.disable_progress_bar()
            self._held += 1

    def end(self) -> None:
        with self._lock:
            self._held -= 1
            if not self._held:
                transformers_logging.set_verbosity(self._level)
                if self._bars:
                    transformers_logging.enable_progress_bar()


_QUIET = _Quiet()


LOADING = RLock()
"""Held while transformers reads a model: it replaces methods of its classes meanwhile, and two threads
that do so at once may leave weights untied for good."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' reports and progress bars while a model is read or written.

    Missing weights, which it would report, are an error here; the rest (an unused pooler) is intended. A
    checkpoint may be written in one thread while another reads a model.
    """
    _QUIET.begin()
    try:
        yield
    finally:
        _QUIET.end()


@dataclass(frozen=True)
class EncoderHalf:
    """How to load an encoder without its decoder.

    Args:
        family: The encoder's class.
        config: Its configuration.
        key_mapping: Patterns of its weights' names in a folder of the whole model, and their names in the
            encoder, which a folder of the encoder alone has.
        constant: Names of weights that are not trained and missing in some folders: tables of sines.
    """

    family: type[PreTrainedModel]
    config: PreTrainedConfig
    key_mapping: Mapping[str, str]
    constant: frozenset[str] = frozenset()


def encoder_half(config: PreTrainedConfig) -> EncoderHalf | None:
    """The encoder of a model with a decoder; None if the model is loaded whole."""
    two = config.is_encoder_decoder or setting_of(type(config), "is_encoder_decoder", False)
    whole = _class_of(config) if two else None
    if whole is None or config.model_type in _WHOLE:
        return None
    return _with_its_class(whole, config) or _taken_out(whole, config)


def _with_its_class(whole: type[PreTrainedModel], config: PreTrainedConfig) -> EncoderHalf | None:
    """A class of the encoder alone that uses the whole model's weight names, such as ``T5EncoderModel``."""
    for name, family in vars(inspect.getmodule(whole)).items():
        if name.endswith("EncoderModel") and inspect.isclass(family) and issubclass(family, PreTrainedModel):
            if config.model_type == "t5gemma":  # the only one that reads this setting in its encoder
                config = deepcopy(config)
                config.is_encoder_decoder = False
            return EncoderHalf(family, config, {})
    return None


def _taken_out(whole: type[PreTrainedModel], config: PreTrainedConfig) -> EncoderHalf | None:
    """The encoder's own class; its weights are named as in the whole model, without the encoder's prefix."""
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


@dataclass(frozen=True)
class Held:
    """The weights in a folder.

    Args:
        tensors: Number of tensors.
        numbers: Number of elements in all of them.
        dimensions: The dimensions that occur in their shapes.
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
        dimensions = frozenset(size for shape in shapes for size in shape)
        return cls(len(shapes), sum(map(math.prod, shapes)), dimensions)


def check_layers(folder: Path, saved: Mapping[str, Any], held: Held) -> None:
    """Rejects a config.json with far more layers than there are tensors: just creating them would take long.

    Raises:
        ModelFolderError: If there are too many layers.
    """
    for name, value in _numbers(saved):
        if name in _LAYERS and value > _LAYERS_A_TENSOR * held.tensors + _LAYERS_A_TENSOR:
            raise ModelFolderError(
                f"{folder / 'config.json'} says {name}={value:.15g}, but the folder's weights are "
                f"{held.tensors} tensors, too few for so many layers. Correct the number, or fetch the "
                "folder anew."
            )


def check_weights_asked(folder: Path, saved: Mapping[str, Any], config: PreTrainedConfig, held: Held) -> None:
    """Rejects a configuration that asks for far more weights than the folder holds.

    Raises:
        ModelFolderError: If it asks for too many.
    """
    if not any(value >= _LARGE and value not in held.dimensions for _, value in _numbers(saved)):
        return
    family = _class_of(config)
    if family is None:
        return
    with torch.device("meta"):
        asked = sum(weight.numel() for weight in family(config).parameters())
    if asked > _WEIGHTS_A_NUMBER * held.numbers + _SMALL:
        raise ModelFolderError(
            f"{folder / 'config.json'} asks for {asked} weights, but the folder holds {held.numbers}. "
            "Correct its sizes, or download the folder again."
        )


def _numbers(saved: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in saved.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif is_number(value):
            yield name, value
