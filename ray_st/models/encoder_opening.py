"""Opening the encoder of a folder: with torch and its adapter, or with another backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ray_st.models.adapter.peft_folder import Adapter
from ray_st.models.adapter.peft_layers import adapt
from ray_st.models.attention import explained
from ray_st.models.encoder_loading import empty_encoder, load_config, load_encoder, read_config
from ray_st.models.exported.backend_opening import open_exported
from ray_st.models.exported.backend_options import BackendOptions, check_backend
from ray_st.models.exported.exported_module import ENCODER
from ray_st.models.folder_files import ModelFolderError
from ray_st.models.unpadded import prepare


@dataclass(frozen=True)
class EncoderRequest:
    """Which encoder to open, and how.

    Args:
        folder: A folder in the format of transformers.
        adapter: An adapter to put into it; None for none.
        backend: "torch", "onnx" or "openvino".
        trust_remote_code: Whether Python files in the folder may be run.
        model_args: Arguments of ``from_pretrained``, or of another backend.
        config_args: Arguments of ``AutoConfig.from_pretrained``.

    Raises:
        ValueError: If the backend is unknown.
    """

    folder: Path
    adapter: Adapter | None
    backend: str
    trust_remote_code: bool
    model_args: Mapping[str, Any]
    config_args: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_backend(self.backend)
        if self.adapter and self.backend != "torch":
            raise ModelFolderError(
                f"backend={self.backend!r} opens no adapters. Open the folder with torch, call "
                "model.merge_adapters(), save the model, and open what you saved."
            )

    def config(self) -> PreTrainedConfig:
        """The model's configuration.

        Raises:
            ModelFolderError: If there is none, or weights that torch needs are missing.
        """
        read = load_config if self.backend == "torch" else read_config
        return read(self.folder, self.trust_remote_code, dict(self.config_args))

    def open(self, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
        """The encoder, prepared to run without padding if it can.

        Args:
            config: What :meth:`config` returned.
            tokenizer: The model's tokenizer.

        Raises:
            ModelFolderError: If it is incomplete or unsafe, or cannot be exported.
            ImportError: If a package for it is not installed.
            ValueError: If an argument means nothing to the backend.
        """
        if self.backend != "torch":
            return open_exported(
                self.folder,
                ENCODER,
                BackendOptions.of(self.backend, self.model_args),
                lambda: tokenizer,
                partial(empty_encoder, config, self.trust_remote_code),
                self._in_float32,
            )
        with explained(self.model_args.get("attn_implementation")):
            encoder = load_encoder(self.folder, config, self.trust_remote_code, dict(self.model_args))
        if self.adapter:
            adapt(encoder, self.adapter)
        if "attn_implementation" not in self.model_args:
            prepare(encoder)
        return encoder

    def _in_float32(self) -> PreTrainedModel:
        config = load_config(self.folder, self.trust_remote_code, dict(self.config_args))
        return load_encoder(self.folder, config, self.trust_remote_code, {"dtype": torch.float32})
