"""Opening a reranker: its folder is found, checked and read, and gets a new head where it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ray_st.models.activations import Activation
from ray_st.models.encoder_loading import read_config
from ray_st.models.exported.backend_opening import open_exported
from ray_st.models.exported.backend_options import BackendOptions, check_backend
from ray_st.models.exported.exported_module import CLASSIFIER, ExportedModule
from ray_st.models.folder_files import ModelFolderError
from ray_st.models.length_limit import default_limit, set_limit
from ray_st.models.model_hub import find_folder, source_of
from ray_st.models.padding_leaks import note_leak
from ray_st.models.positions import table_limit
from ray_st.models.reranker.classifier_loading import load_classifier, load_classifier_config
from ray_st.models.reranker.pair_chat import PairChat, pair_chat
from ray_st.models.reranker.reranker_folder import (
    RerankerSettings,
    read_settings_of_reranker,
    saved_activation,
)
from ray_st.models.tokenizer.pretrained import load_tokenizer
from ray_st.models.transformer import saved_arguments
from ray_st.models.unpadded import prepare_within

_ORGANISATION = "cross-encoder"  # where a name without an organisation is looked for first


@dataclass(frozen=True, kw_only=True)
class RerankerOptions:
    """What a user asks for when a reranker is opened; see :class:`CrossEncoder`."""

    num_labels: int | None = None
    max_length: int | None = None
    classifier_dropout: float | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    activation: Activation | None = None
    cache_folder: str | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    token: bool | str | None = None
    local_files_only: bool = False
    backend: str = "torch"

    def __post_init__(self) -> None:
        check_backend(self.backend)
        if self.num_labels is not None and self.num_labels < 1:
            raise ValueError(f"num_labels must be at least 1; got {self.num_labels}.")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1; got {self.max_length}.")


@dataclass(frozen=True)
class OpenedReranker:
    """The contents of a reranker's folder.

    Attributes:
        model: The classifier: a ``PreTrainedModel``, or an :class:`ExportedModule` in its place.
        tokenizer: Its tokenizer, in which the longest pair is stored.
        activation: Applied to the classifier's output.
        chat: The template that pairs are put into; None if they are tokenized as they are.
        do_lower_case: Whether texts are lowercased.
        settings: What else the folder says.
        readme: The model card.
        source: Name and commit on the Hub.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    activation: Activation
    chat: PairChat | None
    do_lower_case: bool
    settings: RerankerSettings
    readme: str | None
    source: tuple[str, str] | None


def open_reranker(name: str | Path, options: RerankerOptions) -> OpenedReranker:
    """Opens a folder, which is downloaded from the Hub if necessary.

    Args:
        name: A folder of a reranker or of a plain encoder of transformers, or a name on the Hub.
        options: What the user asks for.

    Raises:
        ModelFolderError: If there is no such model, or it is of another kind, incomplete or unsafe.
        ImportError: If the model needs a package that is not installed.
    """
    folder = find_folder(
        name,
        cache_folder=options.cache_folder,
        revision=options.revision,
        token=options.token,
        local_files_only=options.local_files_only,
        trust_remote_code=options.trust_remote_code,
        organisation=_ORGANISATION,
        backend=options.backend,
    )
    settings = read_settings_of_reranker(folder, new_head=options.num_labels is not None)
    model: PreTrainedModel | ExportedModule
    if options.backend == "torch":
        model = open_classifier(folder, settings, options)
    else:
        model = _open_exported(folder, settings, options)
    tokenizer = _tokenizer(folder, settings, options, model)
    activation = options.activation
    if activation is None:
        activation = saved_activation(folder, settings, model.config, options.trust_remote_code)
    if activation is None:
        activation = nn.Sigmoid() if model.config.num_labels == 1 else nn.Identity()
    try:
        chat = pair_chat(tokenizer, _ways(settings), settings.module.get("processing_kwargs"))
    except ValueError as error:
        raise ModelFolderError(f"{folder}: {error}") from error
    lowers = bool(settings.module.get("do_lower_case", False))
    if chat is not None and lowers:
        raise ModelFolderError(f"{folder} asks for do_lower_case, which a chat template does not allow.")
    readme = folder / "README.md"
    return OpenedReranker(
        model,
        tokenizer,
        activation,
        chat,
        lowers,
        settings,
        readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else None,
        source_of(folder),
    )


def open_classifier(folder: Path, settings: RerankerSettings, options: RerankerOptions) -> PreTrainedModel:
    """The classifier in a folder, with its weights, prepared to run without padding if it can.

    Args:
        folder: The folder.
        settings: What was read from it.
        options: What the user asks for.

    Raises:
        ModelFolderError: If it is incomplete, unsafe or not of the kind that is asked for.
    """
    trust = options.trust_remote_code
    config = load_classifier_config(folder, trust, _config_args(settings, options), options.num_labels)
    arguments = {**saved_arguments(dict(settings.module), "model_args"), **options.model}
    model = load_classifier(folder, config, trust, arguments)
    if "attn_implementation" not in arguments:
        prepare_within(model)
    note_leak(model.config.model_type)
    return model


def _config_args(settings: RerankerSettings, options: RerankerOptions) -> dict[str, Any]:
    asked = {**saved_arguments(dict(settings.module), "config_args"), **options.config}
    if options.classifier_dropout is not None:
        asked["classifier_dropout"] = options.classifier_dropout
    return asked


def _open_exported(folder: Path, settings: RerankerSettings, options: RerankerOptions) -> ExportedModule:
    """What computes with the exported classifier of a folder."""
    trust, asked = options.trust_remote_code, _config_args(settings, options)

    def load() -> PreTrainedModel:
        config = load_classifier_config(folder, trust, asked, options.num_labels)
        return load_classifier(folder, config, trust, {"dtype": torch.float32})

    def empty() -> PreTrainedModel:
        config = load_classifier_config(folder, trust, asked, options.num_labels, read_config)
        made: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            config, trust_remote_code=trust
        )
        return made

    tokenizer = partial(load_tokenizer, folder, trust, _tokenizer_args(settings, options))
    return open_exported(
        folder, CLASSIFIER, BackendOptions.of(options.backend, options.model), tokenizer, empty, load
    )


def _tokenizer_args(settings: RerankerSettings, options: RerankerOptions) -> dict[str, Any]:
    return {**saved_arguments(dict(settings.module), "tokenizer_args"), **options.tokenizer}


def _ways(settings: RerankerSettings) -> Mapping[str, Any] | None:
    """Whether the folder says if pairs go into a chat template; None for a folder of transformers alone."""
    return None if settings.plain else settings.module.get("modality_config") or {}


def _tokenizer(
    folder: Path,
    settings: RerankerSettings,
    options: RerankerOptions,
    model: PreTrainedModel | ExportedModule,
) -> PreTrainedTokenizerBase:
    """The tokenizer, with the longest pair and a padding token that the classifier knows, too."""
    asked = _tokenizer_args(settings, options)
    tokenizer = load_tokenizer(folder, options.trust_remote_code, asked)
    table = table_limit(model)
    longest = options.max_length
    if longest is None and "model_max_length" not in asked:
        longest = settings.module.get("max_seq_length")
    set_limit(tokenizer, longest or default_limit(tokenizer, model.config, table), table)
    text = model.config.get_text_config()
    if tokenizer.pad_token is None:
        # Any token can fill up a batch: masks tell padding from text.
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None and text.pad_token_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(text.pad_token_id)
    if tokenizer.pad_token_id is None:
        raise ModelFolderError(
            f"The tokenizer in {folder} has neither a padding token nor an end token, without which pairs of "
            'different lengths share no batch. Name one with tokenizer_kwargs={"pad_token": "…"}.'
        )
    if text.pad_token_id is None:
        text.pad_token_id = tokenizer.pad_token_id  # decoders look for the last token that is not padding
    return tokenizer
