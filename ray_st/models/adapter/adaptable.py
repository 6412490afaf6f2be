"""The methods of a model that concern its adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ray_st.models.adapter.peft_folder import Adapter, AdapterConfig, load_peft
from ray_st.models.adapter.peft_layers import adapter_names as _names_of
from ray_st.models.adapter.peft_layers import (
    are_disabled,
    attach,
    encoder_within,
    inject,
    merge,
    remove,
    switch,
)
from ray_st.models.model_hub import find_folder
from ray_st.models.module import auto_model_of
from ray_st.models.packed_weights import is_quantized
from ray_st.models.stack import Stack

_DEFAULT = "default"


class AdaptableStack(Stack):
    """Modules in a row, the first of which can have adapters.

    With an adapter, the encoder's own weights are frozen; those of later modules are not. Saving the model
    then writes the active adapter instead of the encoder, and the name or folder that the encoder was loaded
    from: later changes to the encoder's own weights are not saved.
    """

    @property
    def has_adapters(self) -> bool:
        """Whether the first module has an adapter, active or not."""
        return bool(_names_of(encoder_within(auto_model_of(self.first))))

    def check_adapters(self) -> None:
        """Raises for a ``PeftModel`` as encoder that cannot be saved and opened again.

        Others work as if :meth:`add_adapter` had added their adapters.

        Raises:
            ValueError: Naming its kind, and what to do instead.
        """
        module: Any = auto_model_of(self.first)
        encoder = encoder_within(module)
        if encoder is not module and not _names_of(encoder):
            kinds = sorted({type(config).__name__ for config in module.peft_config.values()})
            raise ValueError(
                f"The first module's auto_model is a {type(module).__name__} of {kinds}, which puts no "
                "adapter into the encoder: it trains a prompt, whose tokens would count in the embedding "
                "and which no model folder holds. Give the plain encoder an adapter instead: "
                "model.add_adapter(peft.LoraConfig(...))."
            )

    def add_adapter(self, adapter_config: AdapterConfig, adapter_name: str | None = None) -> None:
        """Adds a fresh adapter for training, and makes it the active one.

        Its weights are float32, even beside an encoder in bfloat16.

        Args:
            adapter_config: A ``peft.PeftConfig`` such as ``LoraConfig``; prompt learning is not supported.
            adapter_name: Its name; by default "default".

        Raises:
            ValueError: If the name is taken, or the configuration does not fit the encoder.
            ImportError: If peft is not installed.
        """
        encoder = self._encoder()
        if not isinstance(adapter_config, load_peft().PeftConfig):
            raise ValueError(
                f"adapter_config must be a peft.PeftConfig; got {type(adapter_config).__name__}."
            )
        inject(encoder, adapter_config, adapter_name or _DEFAULT)

    def load_adapter(
        self,
        peft_model_id: str | Path | None = None,
        adapter_name: str | None = None,
        revision: str | None = None,
        token: bool | str | None = None,
        *,
        peft_config: AdapterConfig | None = None,
        adapter_state_dict: Mapping[str, Tensor] | None = None,
        is_trainable: bool = False,
        cache_folder: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Adds a trained adapter and makes it the active one. Only safetensors are read.

        Args:
            peft_model_id: Its folder, or its name on the Hub.
            adapter_name: Its name here; by default "default".
            revision: Branch, tag or commit on the Hub.
            token: For private adapters on the Hub.
            peft_config: Its configuration, with ``adapter_state_dict`` in place of ``peft_model_id``.
            adapter_state_dict: Its weights.
            is_trainable: Whether it can be trained further; :meth:`set_adapter` has the same effect later.
            cache_folder: Where adapters downloaded from the Hub are stored.
            local_files_only: Never ask the Hub.

        Raises:
            ValueError: If there is no such adapter, it is unsafe or incomplete (a ``ModelFolderError``), it
                does not fit the encoder, or the name is taken.
            ImportError: If peft is not installed.
        """
        encoder = self._encoder()
        given = [value is not None for value in (peft_model_id, peft_config, adapter_state_dict)]
        if given not in ([True, False, False], [False, True, True]):
            raise ValueError(
                "load_adapter takes either peft_model_id, or peft_config and adapter_state_dict."
            )
        if peft_config is not None:
            adapter = Adapter(peft_config, adapter_state_dict or {})
        else:
            assert peft_model_id is not None
            folder = find_folder(
                peft_model_id,
                cache_folder=cache_folder,
                revision=revision,
                token=token,
                local_files_only=local_files_only,
            )
            adapter = Adapter.read(folder)
        attach(encoder, adapter, adapter_name or _DEFAULT, is_trainable)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Makes one or more adapters the active ones, and the only ones that are trained.

        Raises:
            ValueError: If there is no such adapter.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        self._known(names).set_adapter(names)

    def active_adapters(self) -> list[str]:
        """Names of the active adapters, including those disabled by :meth:`disable_adapters`.

        Raises:
            ValueError: If the model has no adapter.
        """
        return list(self._known([]).active_adapters())

    def active_adapter(self) -> str:
        """Name of the active adapter; the first one if there are several.

        Raises:
            ValueError: If the model has no adapter.
        """
        return self.active_adapters()[0]

    def enable_adapters(self) -> None:
        """Enables the active adapters again.

        Raises:
            ValueError: If the model has no adapter.
        """
        switch(self._known([]), True)

    def disable_adapters(self) -> None:
        """Computes with the encoder's own weights alone, until :meth:`enable_adapters`.

        Raises:
            ValueError: If the model has no adapter.
        """
        switch(self._known([]), False)

    def get_adapter_state_dict(self, adapter_name: str | None = None) -> dict[str, Tensor]:
        """The weights of an adapter, by default the active one, under their names in the encoder.

        Raises:
            ValueError: If there is no such adapter.
        """
        encoder = self._known([] if adapter_name is None else [adapter_name])
        return encoder.get_adapter_state_dict(adapter_name or self.active_adapter())

    def delete_adapter(self, adapter_names: str | list[str]) -> None:
        """Removes adapters. Without any, the encoder is as before, and all its weights are trainable.

        Raises:
            ValueError: If there is no such adapter.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        encoder = self._known(names)
        remove(encoder, names)
        if not _names_of(encoder):
            self.first.auto_model = encoder  # without a PeftModel around it

    def merge_adapters(self, adapter_names: str | list[str] | None = None) -> None:
        """Adds adapters to the encoder's weights and removes them: a plain model with the same embeddings.

        It is saved whole, runs without peft, and all its weights are trainable. If the encoder's dtype has
        fewer bits than float32, the sum is rounded to it; call ``model.float()`` first to keep the sum exact.

        Args:
            adapter_names: The active adapters, which is the default. Others would be lost: activate them too
                (:meth:`set_adapter`) to merge them, or delete them (:meth:`delete_adapter`).

        Raises:
            ValueError: If the model has no adapter, adapters are named that are not the active ones, there
                are inactive adapters, the adapters are disabled, or the encoder is quantized.
        """
        encoder = self._known([])
        if is_quantized(encoder):
            raise ValueError(
                "The encoder is quantized: the sum would be rounded to its few bits and lose much of the "
                "adapter. Save this model, open its base without quantization_config, and merge there: "
                "model.load_adapter(folder), model.merge_adapters()."
            )
        active = self.active_adapters()
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names or active)
        self._known(names)
        if sorted(names) != sorted(active):
            raise ValueError(
                f"merge_adapters merges the active adapters, {active}; got {names}. Choose them with "
                f"set_adapter({names!r})."
            )
        if others := [name for name in _names_of(encoder) if name not in names]:
            raise ValueError(
                f"The model also has the adapters {others}, which are not active and would be lost. Delete "
                f"them with delete_adapter({others!r}), or merge all with set_adapter({[*names, *others]!r}) "
                "first."
            )
        if are_disabled(encoder):
            raise ValueError(
                "The adapters are disabled, but merged they would take effect. Call enable_adapters() first, "
                f"or take them out with delete_adapter({names!r})."
            )
        merge(encoder, names)
        self.first.auto_model = encoder

    def _encoder(self) -> Any:
        encoder = encoder_within(auto_model_of(self.first))
        if not isinstance(encoder, PreTrainedModel):
            raise ValueError(
                "Adapters need a first module with an encoder of transformers; this model's first is "
                f"{type(self.first).__name__}."
            )
        load_peft()
        return encoder

    def _known(self, names: list[str]) -> Any:
        """The encoder, after checking that it has these adapters, or at least one."""
        encoder = self._encoder()
        there = _names_of(encoder)
        if not there:
            raise ValueError("The model has no adapter; add_adapter and load_adapter give it one.")
        if unknown := [name for name in names if name not in there]:
            raise ValueError(f"There is no adapter {unknown[0]!r}; the model has {there}.")
        return encoder
