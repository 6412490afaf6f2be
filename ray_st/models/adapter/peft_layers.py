"""The adapters of an encoder: adding them, loading their weights, enabling, merging and removing them."""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from transformers import PreTrainedModel

from ray_st.models.adapter.peft_folder import ADAPTER_CONFIG, Adapter, AdapterConfig, load_peft
from ray_st.models.folder_files import ModelFolderError

_PREFIX = "base_model.model."  # before each name in the file
_IGNORED = {  # settings that may differ when trained weights are loaded
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "peft_version",
    "revision",
}


@runtime_checkable
class _MergesItself(Protocol):
    """A wrapper of peft that knows how it is merged and removed."""

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str]
    ) -> nn.Module:
        """The layer that takes its place."""


def encoder_within(module: object) -> Any:
    """The encoder in a first module's ``auto_model``, which users may have replaced by a ``PeftModel``.

    Args:
        module: An encoder of transformers, a ``PeftModel`` around one, or anything else, which is returned
            unchanged.
    """
    peft = sys.modules.get("peft")  # without it there is no PeftModel
    encoder = module
    if peft is not None and isinstance(module, peft.PeftModel):
        inner = module.base_model  # the encoder, or the tuner that put adapters into it
        encoder = inner if isinstance(inner, PreTrainedModel) else inner.model
    if isinstance(encoder, PreTrainedModel):
        # transformers looks at this flag to save and list adapters; peft itself does not set it.
        encoder._hf_peft_config_loaded = bool(_configs(encoder))
    return encoder


def _configs(encoder: PreTrainedModel) -> dict[str, AdapterConfig]:
    """The configurations of an encoder's adapters by name; peft sets the attribute with the first one."""
    return vars(encoder).get("peft_config", {})


def adapter_names(encoder: nn.Module | None) -> list[str]:
    """Names of all adapters in an encoder of transformers; none for anything else, even a ``PeftModel``."""
    return list(_configs(encoder)) if isinstance(encoder, PreTrainedModel) else []


def inject(
    encoder: PreTrainedModel, config: AdapterConfig, name: str, dtype: torch.dtype = torch.float32
) -> None:
    """Adds a fresh adapter to the encoder, whose weights are frozen, and makes it the only active one.

    Args:
        encoder: An encoder of transformers; changed in place.
        config: A ``peft.PeftConfig``; stored in the encoder.
        name: A name that no adapter of the encoder has.
        dtype: Type of the adapter's weights, unless the encoder's has more bits.

    Raises:
        ValueError: If the name is taken, or the configuration does not fit the encoder.
    """
    if name in adapter_names(encoder):
        raise ValueError(f"There is an adapter {name!r} already; delete it first, or choose another name.")
    if name in {part for place, _ in encoder.named_modules() for part in place.split(".")}:
        # peft would mistake this module's weights for the adapter's.
        raise ValueError(
            f"An adapter cannot be named {name!r}, as a module of the encoder is; choose another name."
        )
    peft = load_peft()
    config.base_model_name_or_path = str(encoder.name_or_path) or None  # other names make peft ask the Hub
    try:
        with warnings.catch_warnings():
            # Several adapters are intended.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            peft.inject_adapter_in_model(config, encoder, name)
    except Exception:
        _configs(encoder).pop(name, None)
        raise
    encoder._hf_peft_config_loaded = True
    encoder.set_adapter(name)  # only this one is active and trained
    for weight in adapter_weights(encoder):
        if weight.requires_grad:
            weight.data = weight.data.to(torch.promote_types(weight.dtype, dtype))
    if config.inference_mode:
        encoder.requires_grad_(False)
    encoder.train(encoder.training)


def adapt(encoder: PreTrainedModel, adapter: Adapter) -> None:
    """Puts its adapter, named "default", into an encoder that was just read.

    If adapter and base share a folder, transformers has already done so, without checking for missing
    weights.
    """
    if names := adapter_names(encoder):
        remove(encoder, names)
    attach(encoder, adapter, "default")


def attach(encoder: PreTrainedModel, adapter: Adapter, name: str, trainable: bool = False) -> None:
    """Puts a trained adapter into an encoder and makes it the active one.

    Args:
        encoder: An encoder of transformers; changed in place.
        adapter: The adapter.
        name: A name that no adapter of the encoder has.
        trainable: Whether it can be trained further.

    Raises:
        ValueError: If the name is taken, or the adapter does not fit, in which case it is removed again.
    """
    adapter.config.inference_mode = not trainable
    kinds = [tensor.dtype for tensor in adapter.weights.values() if tensor.is_floating_point()]
    inject(encoder, adapter.config, name, functools.reduce(torch.promote_types, kinds, encoder.dtype))
    try:
        fill(encoder, adapter, name)
    except ValueError:
        remove(encoder, [name])
        raise


def fill(encoder: PreTrainedModel, adapter: Adapter, name: str) -> None:
    """Copies weights into an adapter that the encoder has.

    An adapter's weights for a pooler are ignored if the encoder has none, as embeddings never use it.

    Raises:
        ModelFolderError: If a weight is missing, unknown, or of another shape.
    """
    peft = load_peft()
    weights = {key.removeprefix(_PREFIX): tensor for key, tensor in adapter.weights.items()}
    if dict(encoder.named_children()).get("pooler") is None:
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("pooler.")}
    expected = peft.get_peft_model_state_dict(encoder, adapter_name=name, save_embedding_layers=False).keys()
    if missing := sorted(expected - weights.keys()):
        raise ModelFolderError(f"{adapter.place} lacks {len(missing)} weights, the first is {missing[0]}.")
    # Adapted word embeddings are saved whole, under their name in the encoder.
    if unknown := sorted(weights.keys() - expected - encoder.state_dict().keys()):
        raise ModelFolderError(
            f"{adapter.place} has {len(unknown)} weights that this model lacks, the first is {unknown[0]}."
        )
    try:
        peft.set_peft_model_state_dict(encoder, weights, adapter_name=name)
    except RuntimeError as error:
        raise ModelFolderError(f"The adapter in {adapter.place} does not fit this model: {error}") from error


def refill(encoder: PreTrainedModel, folder: Path) -> None:
    """Loads the weights of a saved adapter into the active one, in place.

    Raises:
        ModelFolderError: If there is none, or its settings or shapes differ.
    """
    name = encoder.active_adapters()[0]
    adapter = Adapter.read(folder)
    mine, saved = _configs(encoder)[name].to_dict(), adapter.config.to_dict()
    for key in sorted(mine.keys() - _IGNORED):
        if mine[key] != saved.get(key):
            raise ModelFolderError(
                f"{folder / ADAPTER_CONFIG} has {key} {saved.get(key)!r}; this model's adapter {name!r} has "
                f"{mine[key]!r}."
            )
    fill(encoder, adapter, name)


def adapter_weights(encoder: nn.Module | None) -> list[nn.Parameter]:
    """The adapter weights whose dtype may differ from the encoder's: their layers cast between the two.

    Whole layers that an adapter trains, and those that replace a norm, do not cast.
    """
    if encoder is None or not adapter_names(encoder):
        return []
    layers = [layer for layer in encoder.modules() if isinstance(layer, _tuner_layer())]
    parts = [part for layer in layers for part in layer.modules() if not isinstance(part, nn.LayerNorm)]
    own = {id(weight): weight for part in parts for weight in part.parameters(recurse=False)}
    base = {id(weight) for layer in layers for weight in layer.get_base_layer().parameters()}
    return [weight for key, weight in own.items() if key not in base]


def remove(encoder: PreTrainedModel, names: list[str]) -> None:
    """Removes adapters from an encoder; without the last one it is as before the first, and trainable."""
    encoder.delete_adapter(names)
    if adapter_names(encoder):
        return
    for place, layer in _tuner_layers(encoder).items():
        inner = layer.get_base_layer() if isinstance(layer, _tuner_layer()) else layer.original_module
        encoder.set_submodule(place, inner)
    encoder.requires_grad_(True)


def merge(encoder: PreTrainedModel, names: list[str]) -> None:
    """Adds adapters to the encoder's own weights, and removes all adapters.

    Args:
        encoder: An encoder of transformers; changed in place.
        names: The active adapters, which are merged.

    Raises:
        ValueError: If a merged weight would be NaN or infinite.
    """
    for place, layer in _tuner_layers(encoder).items():
        if isinstance(layer, _MergesItself):
            inner = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=names)
        else:
            layer.merge(safe_merge=True, adapter_names=names)
            inner = layer.get_base_layer()
        encoder.set_submodule(place, inner)
    del encoder.peft_config
    encoder._hf_peft_config_loaded = False
    encoder.requires_grad_(True)


def are_disabled(encoder: PreTrainedModel) -> bool:
    """Whether the encoder currently computes with its own weights alone."""
    return any(layer.disable_adapters for layer in _tuner_layers(encoder).values())


def switch(encoder: PreTrainedModel, enabled: bool) -> None:
    """Enables or disables an encoder's adapters."""
    for layer in _tuner_layers(encoder).values():
        layer.enable_adapters(enabled)


def _tuner_layer() -> type[Any]:
    return resolve_name("peft.tuners.tuners_utils:BaseTunerLayer")


def _tuner_layers(encoder: PreTrainedModel) -> dict[str, Any]:
    """The outermost layers that peft put around others, by their name."""
    kinds = (_tuner_layer(), resolve_name("peft.utils.other:AuxiliaryTrainingWrapper"))
    found: dict[str, Any] = {}
    for place, module in encoder.named_modules():
        if isinstance(module, kinds) and not any(place.startswith(f"{outer}.") for outer in found):
            found[place] = module
    return found
