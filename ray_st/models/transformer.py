"""The first module of most models: a tokenizer and an encoder of transformers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ray_st.models.adapter.peft_folder import Adapter, base_folder, clear_adapter, is_adapter, save_adapter
from ray_st.models.adapter.peft_layers import adapter_names, encoder_within
from ray_st.models.attention import register_kernel
from ray_st.models.chat import MESSAGE, chat_template
from ray_st.models.encoder_loading import quiet, without_cache
from ray_st.models.encoder_opening import EncoderRequest
from ray_st.models.folder_files import ModelFolderError, read_json
from ray_st.models.length_limit import default_limit, limit_of, set_limit
from ray_st.models.model_hub import find_folder
from ray_st.models.module import Features, LoadOptions, Module
from ray_st.models.onednn import linear_layers_of
from ray_st.models.padding_leaks import note_leak
from ray_st.models.positions import is_padded_left, run_from_start, table_limit
from ray_st.models.remote_code import keep_code
from ray_st.models.tokenizer.pretrained import CONFIG, load_tokenizer, save_tokenizer
from ray_st.models.tokens import TokenEncoder
from ray_st.models.unpadded import find_packing, is_full, is_prepared, run_packed
from ray_st.util.host_facts import PADDING_SIDE, TOKEN_LENGTHS
from ray_st.util.names import either

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

logger = logging.getLogger(__name__)

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
_TASK, _OUTPUT = "feature-extraction", "token_embeddings"
# Arguments of the tokenizer's calls that ask for what is done anyway.
_USUAL: dict[str, tuple[Any, ...]] = {
    "padding": (True, "longest"),
    "truncation": (True, "longest_first"),
    "return_tensors": ("pt",),
}
_OLD_KINDS = ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")


class Transformer(Module):
    """Turns token ids into one vector for each token.

    Encoders that support it (see :data:`ray_st.models.unpadded.POSITIONS`) run only on the real tokens of a
    batch; the vectors of padding are then zero. An ``attn_implementation`` among ``model_args`` turns this
    off. "flash_attention_2", "flash_attention_3" and names of kernels on the Hub need a package on every node
    that computes, and here, and the former a GPU at both; a run's driver checks the nodes before it starts
    workers. Features may hold ``token_lengths``, the number of tokens of each text (n,) on the CPU, and
    ``padding_side``; then the encoder's device is not asked for them.

    Args:
        model_name_or_path: A folder in the format of transformers, or of an adapter in the format of peft, or
            a name on the Hub.
        max_seq_length: Longest sequence in tokens. By default the tokenizer's, at most the encoder's number
            of positions.
        model_args: More arguments of ``AutoModel.from_pretrained``, such as ``dtype`` or
            ``attn_implementation``.
        tokenizer_args: More arguments of ``AutoTokenizer.from_pretrained``.
        config_args: More arguments of ``AutoConfig.from_pretrained``.
        cache_dir: Where downloaded models are stored.
        do_lower_case: Whether to lowercase texts before they are tokenized.
        tokenizer_name_or_path: Another folder or name for the tokenizer.
        trust_remote_code: Whether Python files of the model may be run.
        token: For private models on the Hub.
        local_files_only: Never ask the Hub.
        modality_config: What the model takes, by name. With "message", every text becomes a user message in
            the tokenizer's chat template: ``{"message": {"format": "flat"}}``, or "structured" for a template
            that expects typed parts.
        processing_kwargs: ``{"chat_template": …}`` for more arguments of that template.
        backend: What computes: "torch", "onnx" or "openvino". ``model_args`` then are those of
            :class:`BackendOptions`, such as ``file_name``.
        model_kwargs: The later name of ``model_args``.
        processor_kwargs: The later name of ``tokenizer_args``.
        config_kwargs: The later name of ``config_args``.

    Raises:
        ModelFolderError: If there is no such model, or its weights are missing or pickled.
        ValueError: If ``modality_config`` names "message" and the tokenizer has no chat template.
        ImportError: If the folder holds an adapter and peft is not installed, or this process lacks what the
            ``attn_implementation`` needs.
    """

    config_file_name: ClassVar[str] = "sentence_bert_config.json"
    config_keys: ClassVar[tuple[str, ...]] = ("max_seq_length", "do_lower_case")
    save_in_root: ClassVar[bool] = True

    def __init__(
        self,
        model_name_or_path: str | Path,
        max_seq_length: int | None = None,
        model_args: Mapping[str, Any] | None = None,
        tokenizer_args: Mapping[str, Any] | None = None,
        config_args: Mapping[str, Any] | None = None,
        cache_dir: str | None = None,
        do_lower_case: bool = False,
        tokenizer_name_or_path: str | Path | None = None,
        trust_remote_code: bool = False,
        token: bool | str | None = None,
        local_files_only: bool = False,
        modality_config: Mapping[str, Any] | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        model_args = either("model_args", model_args, "model_kwargs", model_kwargs)
        tokenizer_args = either("tokenizer_args", tokenizer_args, "processor_kwargs", processor_kwargs)
        config_args = either("config_args", config_args, "config_kwargs", config_kwargs)
        find = partial(
            find_folder,
            cache_folder=cache_dir,
            token=token,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
        )
        folder = find(model_name_or_path)
        adapter = Adapter.read(folder) if is_adapter(folder) else None
        base = base_folder(folder, find) if adapter else folder
        request = EncoderRequest(
            base, adapter, backend, trust_remote_code, dict(model_args or {}), dict(config_args or {})
        )
        config = request.config()
        place = find(tokenizer_name_or_path) if tokenizer_name_or_path else folder
        if place == folder and not (folder / CONFIG).is_file():
            place = base  # the folder of an adapter alone has none
        self.tokenizer = load_tokenizer(place, trust_remote_code, dict(tokenizer_args or {}))
        if self.tokenizer.pad_token is None:
            # Any token can fill up a batch: masks tell padding from text, also from a text's own last token.
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.backend = backend
        self.auto_model = request.open(config, self.tokenizer)
        self._kind, self._without_cache = type(self.auto_model), without_cache(self.auto_model)
        note_leak(self.auto_model.config.model_type)
        self.do_lower_case = do_lower_case
        self.max_seq_length = max_seq_length or default_limit(
            self.tokenizer, config, table_limit(self.auto_model)
        )
        self.modality_config, self.processing_kwargs = modality_config, processing_kwargs
        self.chat = chat_template(self.tokenizer, modality_config, processing_kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a module that another process may have sent."""
        super().__setstate__(state)
        encoder = encoder_within(self.auto_model)
        if isinstance(encoder, PreTrainedModel):
            register_kernel(encoder)

    @property
    def max_seq_length(self) -> int | None:
        """Longest sequence in tokens, special ones included; None if there is no limit.

        Stored in the tokenizer. Never more than the number of positions that the encoder has learned.
        """
        return limit_of(self.tokenizer)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        set_limit(self.tokenizer, value, table_limit(self.auto_model))

    @property
    def without_padding(self) -> bool:
        """Whether padding costs next to nothing, because only real tokens go through the encoder."""
        return is_prepared(self.auto_model)

    def token_encoder(self) -> TokenEncoder:
        """The part that turns texts into token ids, light enough to be sent to other processes."""
        return TokenEncoder(self.tokenizer, self.max_seq_length, self.do_lower_case, self.chat)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The padded batch of some texts; see :meth:`TokenEncoder.pad`."""
        encoder = self.token_encoder()
        return encoder.pad(encoder(texts))

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d), from ``input_ids`` and ``attention_mask``."""
        inputs = {name: features[name] for name in _INPUTS if name in features}
        with linear_layers_of(self.auto_model):
            lengths = features.get(TOKEN_LENGTHS)
            known = lengths is not None and lengths.device.type == "cpu"  # else the mask is asked, as ever
            output = self._run(inputs, lengths if known else None, features.get(PADDING_SIDE))
        result = {**features, "token_embeddings": output.last_hidden_state}
        if self.auto_model.config.output_hidden_states:
            result["all_layer_embeddings"] = output.hidden_states
        return result

    def _run(self, inputs: dict[str, Tensor], lengths: Tensor | None, side: str | None) -> Any:
        """The encoder's output; a text's vectors depend neither on the side nor on the amount of padding."""
        if self.without_padding and (packing := find_packing(inputs, lengths, side)):
            return run_packed(self._encode, self.auto_model, inputs, packing)
        # A compiled model must not branch on the values of the batch.
        compiling = torch.compiler.is_compiling()
        if self.without_padding and not compiling and is_full(inputs, lengths):
            # Given a mask, transformers would look for padding on the device.
            return self._encode(**{name: value for name, value in inputs.items() if name != "attention_mask"})
        if self.tokenizer.padding_side == "left" if compiling else is_padded_left(inputs):
            return run_from_start(self._encode, inputs)
        return self._encode(**inputs)

    def _encode(self, **inputs: Tensor) -> Any:
        if type(self.auto_model) is not self._kind:  # a user may have replaced it
            self._kind, self._without_cache = type(self.auto_model), without_cache(self.auto_model)
        return self.auto_model(**inputs, **self._without_cache, return_dict=True)

    def get_embedding_dimension(self) -> int:
        """Dimension of a token's vector."""
        return int(self.auto_model.config.get_text_config().hidden_size)

    get_word_embedding_dimension = get_embedding_dimension

    def save(self, folder: str | Path) -> None:
        """Writes weights, configuration and tokenizer into an existing folder; of adapters, the active one.

        Raises:
            ValueError: If several adapters are active, or one would be written next to the weights of a whole
                model.
        """
        encoder = encoder_within(self.auto_model)
        for part in (encoder, encoder.config, self.tokenizer):
            keep_code(part)
        with quiet():
            if adapter_names(encoder):
                save_adapter(Path(folder), encoder)
            else:
                clear_adapter(Path(folder))
                self.auto_model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, Path(folder), self.max_seq_length)
        super().save(folder)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings; those of a chat template, if there is one, in the peer's form."""
        settings = super().get_config_dict()
        if self.chat is None:
            return settings
        output = {"method": "forward", "method_output_name": "last_hidden_state"}
        form = "structured" if self.chat.structured else "flat"
        chat = {
            "transformer_task": _TASK,
            "modality_config": {"text": output, MESSAGE: {**output, "format": form}},
            "module_output_name": _OUTPUT,
        }
        more = {"processing_kwargs": self.processing_kwargs} if self.processing_kwargs else {}
        return {**settings, **chat, **more}

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder.

        Args:
            folder: Where :meth:`save`, or another program that writes this format, wrote it.
            **options: ``model_args``, ``tokenizer_args`` and ``config_args`` override the folder's.

        Raises:
            ModelFolderError: If weights are missing or pickled, or the folder asks for another task than
                embedding texts from the last layer.
        """
        folder = Path(folder)
        config = _read_settings(folder)
        keys = (*cls.config_keys, "modality_config", "processing_kwargs")
        settings = {key: config[key] for key in keys if key in config}
        if "model_max_length" in (options.get("tokenizer_args") or {}):
            settings.pop("max_seq_length", None)
        arguments: dict[str, Any] = {**options}
        for name in ("model_args", "tokenizer_args", "config_args"):
            arguments[name] = {**saved_arguments(config, name), **(arguments.get(name) or {})}
        try:
            return cls(folder, **arguments, **settings)
        except ModelFolderError:
            raise
        except ValueError as error:
            raise ModelFolderError(f"{folder}: {error}") from error

    def __repr__(self) -> str:
        """What ``print(model)`` shows of this module: the encoder's class, not its hundred layers."""
        settings = f"max_seq_length={self.max_seq_length}, do_lower_case={self.do_lower_case}"
        return f"Transformer({type(self.auto_model).__name__}, {settings})"


def _read_settings(folder: Path) -> dict[str, Any]:
    for name in (Transformer.config_file_name, *(f"sentence_{kind}_config.json" for kind in _OLD_KINDS)):
        if (folder / name).is_file():
            config = read_json(folder / name)
            _check_settings(folder / name, config)
            return config
    return {}


def _check_settings(path: Path, config: dict[str, Any]) -> None:
    """Rejects a folder whose texts would have to be treated in a way that is not supported here."""
    task = config.get("transformer_task", _TASK)
    kinds = config.get("modality_config") or {}
    outputs = {(kinds.get(kind) or {}).get("method_output_name") for kind in ("text", MESSAGE)}
    made = config.get("module_output_name")
    if task != _TASK or outputs - {"last_hidden_state", None} or made not in (_OUTPUT, None):
        found = f"task {task!r} with output {sorted(map(str, outputs - {None}))} as {made!r}"
        raise ModelFolderError(
            f"{path}: only 'feature-extraction' of text from last_hidden_state is read; found {found}."
        )
    for name in ("query_length", "document_length", "query_expansion"):
        if config.get(name) is not None:
            raise ModelFolderError(
                f"{path} sets {name}, which is not supported: texts would be truncated differently."
            )
    for kind in ("text", "common"):
        asked = (config.get("processing_kwargs") or {}).get(kind) or {}
        if unknown := sorted(key for key, value in asked.items() if value not in _USUAL.get(key, ())):
            raise ModelFolderError(
                f"{path} sets processing_kwargs[{kind!r}][{unknown[0]!r}] to {asked[unknown[0]]!r}, which is "
                "not supported: texts would be tokenized differently."
            )


def saved_arguments(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments for transformers that a folder's settings hold.

    Args:
        config: The settings.
        name: "model_args", "tokenizer_args" or "config_args"; newer folders have other names for them.
    """
    newer = {"tokenizer_args": "processor_kwargs"}.get(name, name.replace("args", "kwargs"))
    saved = {**config.get(name, {}), **config.get(newer, {})}
    saved.pop("trust_remote_code", None)  # trust must come from the user, not from the folder
    return saved
