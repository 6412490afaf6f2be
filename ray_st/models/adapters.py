"""What one does with a model's adapters: small trained parts beside frozen weights (package peft, an extra)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ray_st.models.adapter_folder import Adapter, load_peft
from ray_st.models.adapter_layers import adapter_names, attach, inject, remove, switch
from ray_st.models.hub import find_folder
from ray_st.models.stack import Stack

_DEFAULT = "default"


class AdaptableStack(Stack):
    """Modules in a row, the first of which can be given adapters.

    With an adapter, the encoder's own weights are frozen; those of later modules are not. Saving the model then writes
    the active adapter in place of the encoder, and the name or folder that the encoder came from: changes made to its
    own weights since are not kept.
    """

    @property
    def has_adapters(self) -> bool:
        """Whether the first module has an adapter, active or not."""
        return bool(adapter_names(getattr(self.first, "auto_model", None)))

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Adds a fresh adapter to be trained, and makes it the active one.

        Args:
            adapter_config: A ``peft.PeftConfig`` such as ``LoraConfig``; not one of prompt learning.
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
        peft_config: Any = None,
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
            is_trainable: Whether it goes on training; :meth:`set_adapter` has the same effect later.
            cache_folder: Where adapters fetched from the Hub are kept.
            local_files_only: Never ask the Hub.

        Raises:
            ValueError: If there is no such adapter, it is unsafe or incomplete (a ``ModelFolderError``), it does not
                fit the encoder, or the name is taken.
            ImportError: If peft is not installed.
        """
        encoder = self._encoder()
        if (peft_model_id is None) == (peft_config is None) or (
            (peft_config is None) != (adapter_state_dict is None)
        ):
            raise ValueError(
                "load_adapter takes either peft_model_id, or peft_config and adapter_state_dict."
            )
        if peft_model_id is None:
            adapter = Adapter(peft_config, adapter_state_dict or {})
        else:
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
        """Makes an adapter, or several at once, the active and only trained ones.

        Raises:
            ValueError: If there is no such adapter.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        self._known(names).set_adapter(names)

    def active_adapters(self) -> list[str]:
        """Names of the active adapters; those disabled by :meth:`disable_adapters` included.

        Raises:
            ValueError: If the model has no adapter.
        """
        return list(self._known([]).active_adapters())

    def active_adapter(self) -> str:
        """Name of the active adapter, the first if several are.

        Raises:
            ValueError: If the model has no adapter.
        """
        return self.active_adapters()[0]

    def enable_adapters(self) -> None:
        """Lets the active adapters take part again.

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
        """The weights of an adapter, by default the active one, by their names in the encoder.

        Raises:
            ValueError: If there is no such adapter.
        """
        encoder = self._known([] if adapter_name is None else [adapter_name])
        return encoder.get_adapter_state_dict(adapter_name or self.active_adapter())

    def delete_adapter(self, adapter_names: str | list[str]) -> None:
        """Takes out adapters. With the last one gone, the encoder is as before, and all its weights can be trained.

        Raises:
            ValueError: If there is no such adapter.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        remove(self._known(names), names)

    def _encoder(self) -> Any:
        encoder = getattr(self.first, "auto_model", None)
        if not isinstance(encoder, PreTrainedModel):
            raise ValueError(
                "Adapters need a first module with an encoder of transformers; this model's first is "
                f"{type(self.first).__name__}."
            )
        load_peft()
        return encoder

    def _known(self, names: list[str]) -> Any:
        """The encoder, once it is sure that it has these adapters, or any."""
        encoder = self._encoder()
        there = adapter_names(encoder)
        if not there:
            raise ValueError("The model has no adapter; add_adapter and load_adapter give it one.")
        if unknown := [name for name in names if name not in there]:
            raise ValueError(f"There is no adapter {unknown[0]!r}; the model has {there}.")
        return encoder
