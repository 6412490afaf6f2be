"""Adapters in an encoder: put in, filled with weights, switched on and off, taken out."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ray_st.models.adapter.peft_folder import ADAPTER_CONFIG, Adapter, load_peft
from ray_st.models.folder_files import ModelFolderError

_PREFIX = "base_model.model."  # before each name in the file
_OF_NO_MATTER = {  # to weights that are trained already
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "peft_version",
    "revision",
}


def encoder_within(module: Any) -> Any:
    """The encoder in what a user put in its place: a ``PeftModel`` is made around one, its adapters are inside.

    Args:
        module: An encoder of transformers, a ``PeftModel`` around one, or anything else, which is returned as it is.
    """
    peft = sys.modules.get("peft")  # without it there is no PeftModel
    encoder = module
    if peft is not None and isinstance(module, peft.PeftModel):
        inner = module.base_model  # the encoder, or what has put adapters into it
        encoder = inner if isinstance(inner, PreTrainedModel) else inner.model
    if isinstance(encoder, PreTrainedModel):
        # What transformers saves, and whether it knows its adapters, goes by this mark, which peft by itself does not set.
        encoder._hf_peft_config_loaded = bool(getattr(encoder, "peft_config", None))
    return encoder


def adapter_names(encoder: Any) -> list[str]:
    """Names of all adapters in an encoder of transformers; none for anything else, a ``PeftModel`` included."""
    return list(getattr(encoder, "peft_config", {})) if isinstance(encoder, PreTrainedModel) else []


def inject(encoder: Any, config: Any, name: str) -> None:
    """Puts a fresh adapter beside the encoder's weights, which are frozen, and makes it the only active one.

    Args:
        encoder: An encoder of transformers; changed in place.
        config: A ``peft.PeftConfig``; kept.
        name: A name that no adapter of the encoder has.

    Raises:
        ValueError: If the name is taken, or the configuration does not fit the encoder.
    """
    if name in adapter_names(encoder):
        raise ValueError(f"There is an adapter {name!r} already; delete it first, or choose another name.")
    if name in {part for place, _ in encoder.named_modules() for part in place.split(".")}:
        # peft would take weights of this module for the adapter's, and leave them out when another is saved
        raise ValueError(
            f"An adapter cannot be named {name!r}, as a module of the encoder is; choose another name."
        )
    peft = load_peft()
    config.base_model_name_or_path = str(encoder.name_or_path) or None  # peft asks the Hub about other names
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
            peft.inject_adapter_in_model(config, encoder, name)
    except Exception:
        getattr(encoder, "peft_config", {}).pop(name, None)
        raise
    encoder._hf_peft_config_loaded = True  # what transformers saves goes by this
    encoder.set_adapter(name)  # only this one is active and trained
    if config.inference_mode:
        encoder.requires_grad_(False)
    encoder.train(encoder.training)


def adapt(encoder: Any, adapter: Adapter) -> None:
    """Gives an encoder that was just read its adapter, named "default".

    Where an adapter lies beside its base, transformers has put it in by itself, without looking for missing weights.
    """
    if names := adapter_names(encoder):
        remove(encoder, names)
    attach(encoder, adapter, "default")


def attach(encoder: Any, adapter: Adapter, name: str, trainable: bool = False) -> None:
    """Puts a trained adapter into an encoder and makes it the active one.

    Args:
        encoder: An encoder of transformers; changed in place.
        adapter: The adapter.
        name: A name that no adapter of the encoder has.
        trainable: Whether it goes on training.

    Raises:
        ValueError: If the name is taken, or the adapter does not fit; it is not kept then.
    """
    adapter.config.inference_mode = not trainable
    inject(encoder, adapter.config, name)
    try:
        fill(encoder, adapter, name)
    except ValueError:
        remove(encoder, [name])
        raise


def fill(encoder: Any, adapter: Adapter, name: str) -> None:
    """Copies weights into an adapter that the encoder has.

    What an adapter says of a pooler is left out where the encoder has none, as the embeddings never pass it.

    Raises:
        ModelFolderError: If a weight is missing, unknown, or of another shape.
    """
    peft = load_peft()
    weights = {key.removeprefix(_PREFIX): tensor for key, tensor in adapter.weights.items()}
    if getattr(encoder, "pooler", None) is None:
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("pooler.")}
    expected = peft.get_peft_model_state_dict(encoder, adapter_name=name, save_embedding_layers=False).keys()
    if missing := sorted(expected - weights.keys()):
        raise ModelFolderError(f"{adapter.place} lacks {len(missing)} weights, the first is {missing[0]}.")
    # Adapted word embeddings are saved as a whole, under the name that they have in the encoder.
    if unknown := sorted(weights.keys() - expected - encoder.state_dict().keys()):
        raise ModelFolderError(
            f"{adapter.place} has {len(unknown)} weights that this model lacks, the first is {unknown[0]}."
        )
    try:
        peft.set_peft_model_state_dict(encoder, weights, adapter_name=name)
    except RuntimeError as error:
        raise ModelFolderError(f"The adapter in {adapter.place} does not fit this model: {error}") from error


def refill(encoder: Any, folder: Path) -> None:
    """Takes over the weights of a saved adapter into the active one, in place.

    Raises:
        ModelFolderError: If there is none, or its settings or shapes differ.
    """
    name = encoder.active_adapters()[0]
    adapter = Adapter.read(folder)
    mine, saved = (config.to_dict() for config in (encoder.peft_config[name], adapter.config))
    for key in sorted(mine.keys() - _OF_NO_MATTER):
        if mine[key] != saved.get(key):
            raise ModelFolderError(
                f"{folder / ADAPTER_CONFIG} has {key} {saved.get(key)!r}; this model's adapter {name!r} has {mine[key]!r}."
            )
    fill(encoder, adapter, name)


def adapter_weights(encoder: Any) -> list[nn.Parameter]:
    """The weights of all adapters that may be of another type than the encoder's: those of layers that cast between them.

    Whole layers that an adapter trains, and those that take the place of a norm, do not cast.
    """
    if not adapter_names(encoder):
        return []
    kind = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    layers = [layer for layer in encoder.modules() if isinstance(layer, kind)]
    parts = [
        (layer, part) for layer in layers for part in layer.modules() if not isinstance(part, nn.LayerNorm)
    ]
    own = {id(weight): weight for _, part in parts for weight in part.parameters(recurse=False)}
    base = {id(weight) for layer in layers for weight in layer.get_base_layer().parameters()}
    return [weight for key, weight in own.items() if key not in base]


def remove(encoder: Any, names: list[str]) -> None:
    """Takes adapters out of an encoder; without any left it is what it was before the first, and can be trained."""
    encoder.delete_adapter(names)
    if adapter_names(encoder):
        return
    for place, layer in _tuner_layers(encoder).items():
        inner = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer.original_module
        encoder.set_submodule(place, inner)
    encoder.requires_grad_(True)


def merge(encoder: Any, names: list[str]) -> None:
    """Adds what adapters do to the encoder's own weights, and takes all adapters out.

    Args:
        encoder: An encoder of transformers; changed in place.
        names: The adapters to be merged, active ones.

    Raises:
        ValueError: If a weight would be no number.
    """
    for place, layer in _tuner_layers(encoder).items():
        if hasattr(layer, "unload_and_optionally_merge_module"):
            inner = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=names)
        else:
            layer.merge(safe_merge=True, adapter_names=names)
            inner = layer.get_base_layer()
        encoder.set_submodule(place, inner)
    del encoder.peft_config
    encoder._hf_peft_config_loaded = False
    encoder.requires_grad_(True)


def are_disabled(encoder: Any) -> bool:
    """Whether the encoder computes with its own weights alone, for a while."""
    return any(layer.disable_adapters for layer in _tuner_layers(encoder).values())


def switch(encoder: Any, enabled: bool) -> None:
    """Lets an encoder's adapters take part, or not."""
    for layer in _tuner_layers(encoder).values():
        layer.enable_adapters(enabled)


def _tuner_layers(encoder: Any) -> dict[str, Any]:
    """The outermost layers that peft put around others, by their place."""
    kinds = (
        importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer,
        importlib.import_module("peft.utils.other").AuxiliaryTrainingWrapper,
    )
    found: dict[str, Any] = {}
    for place, module in encoder.named_modules():
        if isinstance(module, kinds) and not any(place.startswith(f"{outer}.") for outer in found):
            found[place] = module
    return found
