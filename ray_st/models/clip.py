"""CLIP: texts and images in one space."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ray_st.models.encoder_loading import load_config, load_encoder, quiet
from ray_st.models.folder_files import ModelFolderError, read_json, write_json
from ray_st.models.model_hub import find_folder
from ray_st.models.module import Features, LoadOptions, Module
from ray_st.models.positions import is_padded_left, moved_to_start
from ray_st.models.text_encoding import check_unicode
from ray_st.models.tokenizer.pretrained import load_tokenizer, save_tokenizer
from ray_st.models.tokens import TokenEncoder

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_PROCESSOR = "preprocessor_config.json"
_PROCESSORS = "processor_config.json"  # newer releases of transformers have it here, under "image_processor"


class CLIPModel(Module):
    """Embeds texts and images with a CLIP model of transformers. Images need pillow.

    Args:
        model_name: A folder in the format of transformers, or a name on the Hub.
        processor_name: Another folder or name for the tokenizer and the settings of the image processor.
        model_args: More arguments of ``AutoModel.from_pretrained``, such as ``dtype``.
        tokenizer_args: More arguments of ``AutoTokenizer.from_pretrained``.
        config_args: More arguments of ``AutoConfig.from_pretrained``.
        trust_remote_code: Whether Python files of the model may be run.

    Raises:
        ModelFolderError: If there is no such model, it is not a CLIP, or its weights are missing or pickled.
    """

    def __init__(
        self,
        model_name: str | Path = "openai/clip-vit-base-patch32",
        processor_name: str | Path | None = None,
        model_args: Mapping[str, Any] | None = None,
        tokenizer_args: Mapping[str, Any] | None = None,
        config_args: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        folder = find_folder(model_name, trust_remote_code=trust_remote_code)
        config = load_config(folder, trust_remote_code, dict(config_args or {}))
        if config.model_type != "clip":
            raise ModelFolderError(f"{folder} holds a model of type {config.model_type!r}, not 'clip'.")
        self.model: Any = load_encoder(folder, config, trust_remote_code, dict(model_args or {}))
        other = folder if processor_name is None else find_folder(processor_name)
        self.tokenizer = load_tokenizer(other, trust_remote_code, dict(tokenizer_args or {}))
        newer = read_json(other / _PROCESSORS, {}).get("image_processor")
        self.image_settings: dict[str, Any] | None = read_json(other / _PROCESSOR) or newer
        self._image_processor: Any = None

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens."""
        positions = self.model.config.text_config.max_position_embeddings
        return int(min(self.tokenizer.model_max_length, positions))

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.tokenizer.model_max_length = value

    def check_inputs(self, inputs: Sequence[Any]) -> None:
        """Raises for entries that are neither texts nor images of pillow.

        Raises:
            ValueError: Naming the first such entry and its index.
        """
        for place, value in enumerate(inputs):
            if isinstance(value, str):
                check_unicode(value, place)
            elif not _is_image(value):
                raise ValueError(
                    f"Inputs must be strings or images of pillow; entry {place} is {type(value).__name__}: "
                    f"{value!r:.80}."
                )

    def tokenize(self, texts: Sequence[Any]) -> dict[str, Tensor]:
        """The features of texts, images, or both.

        Args:
            texts: n texts and images.

        Returns:
            ``input_ids`` and ``attention_mask`` (m, t) for the texts, if any; ``pixel_values`` (k, channels,
            h, w) for the images, if any; if there are both, ``is_image`` (n,) tells them apart.

        Raises:
            ValueError: If the folder has no settings for images.
            ImportError: If there are images and pillow is not installed.
        """
        images = [value for value in texts if not isinstance(value, str)]
        words = [value for value in texts if isinstance(value, str)]
        batch: dict[str, Tensor] = {}
        if words or not images:
            encoder = TokenEncoder(self.tokenizer, self.max_seq_length)
            batch |= encoder.pad(encoder(words))
        if images:
            batch["pixel_values"] = self._pixels(images)
        if images and words:
            batch["is_image"] = torch.tensor([not isinstance(value, str) for value in texts])
        return batch

    def _pixels(self, images: Sequence[Any]) -> Tensor:
        if self.image_settings is None:
            raise ValueError(f"The model has no {_PROCESSOR}, so it cannot process images.")
        if self._image_processor is None:
            self._image_processor = _image_processor(self.image_settings)
        return self._image_processor(images=list(images), return_tensors="pt")["pixel_values"]

    def forward(self, features: Features) -> Features:
        """The features with ``sentence_embedding`` (n, d), in the order of the entries."""
        parts = []
        if "input_ids" in features:
            names = ("input_ids", "attention_mask")
            inputs = {name: features[name] for name in names if name in features}
            inputs = moved_to_start(inputs) if is_padded_left(inputs) else inputs
            parts.append(_pooled(self.model.get_text_features(**inputs)))
        if "pixel_values" in features:
            parts.append(_pooled(self.model.get_image_features(pixel_values=features["pixel_values"])))
        embeddings = torch.cat(parts)
        if "is_image" in features:  # texts come first
            embeddings = embeddings[features["is_image"].int().argsort(stable=True).argsort()]
        return {**features, "sentence_embedding": embeddings}

    def get_embedding_dimension(self) -> int:
        """Dimension of the joint space of texts and images."""
        return int(self.model.config.projection_dim)

    get_sentence_embedding_dimension = get_embedding_dimension

    def save(self, folder: str | Path) -> None:
        """Writes weights, tokenizer and the settings for images into an existing folder."""
        with quiet():
            self.model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, Path(folder), self.max_seq_length)
        if self.image_settings is not None:
            write_json(Path(folder) / _PROCESSOR, self.image_settings)

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder."""
        return cls(
            folder,
            model_args=options.get("model_args"),
            tokenizer_args=options.get("tokenizer_args"),
            config_args=options.get("config_args"),
            trust_remote_code=options.get("trust_remote_code", False),
        )


def _image_processor(settings: dict[str, Any]) -> Any:
    # A folder is the only source of settings that all releases of transformers read.
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / _PROCESSOR, settings)
        return AutoImageProcessor.from_pretrained(folder)


def _pooled(output: Tensor | BaseModelOutputWithPooling) -> Tensor:
    """The embeddings in CLIP's output, which is the tensor itself in older releases of transformers."""
    return output if isinstance(output, Tensor) else output["pooler_output"]


def _is_image(value: object) -> bool:
    return any(kind.__module__.startswith("PIL.") for kind in type(value).__mro__)
