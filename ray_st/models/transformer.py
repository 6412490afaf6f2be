"""The first module of most models: a tokenizer and an encoder of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from transformers import AutoTokenizer

from ray_st.models.adapter_folder import Adapter, base_folder, clear_adapter, is_adapter, save_adapter
from ray_st.models.adapter_layers import adapt, adapter_names
from ray_st.models.encoder import load_config, load_encoder, quiet
from ray_st.models.files import ModelFolderError, read_json
from ray_st.models.hub import find_folder
from ray_st.models.module import Features, Module
from ray_st.models.onednn import linear_layers_of
from ray_st.models.tokens import TokenEncoder
from ray_st.models.unpadded import has_padding, is_prepared, prepare, run_unpadded

if TYPE_CHECKING:
    from typing_extensions import Self

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
_NO_LIMIT = int(1e30)  # what tokenizers of transformers say when there is none
_TOKENIZER = "tokenizer_config.json"
_OLD_NAMES = tuple(
    f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert")
)
_OLD_NAMES += ("sentence_xlm-roberta_config.json", "sentence_xlnet_config.json")


class Transformer(Module):
    """Turns token ids into one vector for each token.

    Encoders that can (see :data:`ray_st.models.unpadded.POSITIONS`) run on the real tokens of a batch only; the
    vectors of padding are then zero. An ``attn_implementation`` among ``model_args`` turns this off.

    Args:
        model_name_or_path: A folder in the format of transformers, or of an adapter in the format of peft, or a name
            on the Hub.
        max_seq_length: Longest sequence in tokens. By default what the tokenizer says, at most as many as the encoder
            has positions.
        model_args: More arguments of ``AutoModel.from_pretrained``, such as ``dtype`` or ``attn_implementation``.
        tokenizer_args: More arguments of ``AutoTokenizer.from_pretrained``.
        config_args: More arguments of ``AutoConfig.from_pretrained``.
        cache_dir: Where fetched models are kept.
        do_lower_case: Whether texts are lower-cased before the tokenizer sees them.
        tokenizer_name_or_path: Another folder or name for the tokenizer.
        trust_remote_code: Whether Python files of the model may be run.
        token: For private models on the Hub.
        local_files_only: Never ask the Hub.

    Raises:
        ModelFolderError: If there is no such model, or its weights are missing or pickled.
        ImportError: If the folder holds an adapter and peft is not installed.
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
    ) -> None:
        super().__init__()
        hub: dict[str, Any] = {
            "cache_folder": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
        }
        folder = find_folder(model_name_or_path, **hub)
        adapter = Adapter.read(folder) if is_adapter(folder) else None
        base = base_folder(folder, **hub) if adapter else folder
        config = load_config(base, trust_remote_code, dict(config_args or {}))
        self.auto_model = load_encoder(base, config, trust_remote_code, dict(model_args or {}))
        if adapter:
            adapt(self.auto_model, adapter)
        if "attn_implementation" not in (model_args or {}):
            prepare(self.auto_model)
        place = find_folder(tokenizer_name_or_path, **hub) if tokenizer_name_or_path else folder
        if place == folder and not (folder / _TOKENIZER).is_file():
            place = base  # what is saved of an adapter alone has none
        self.tokenizer = _load_tokenizer(place, trust_remote_code, dict(tokenizer_args or {}))
        self.do_lower_case = do_lower_case
        self.max_seq_length = max_seq_length or _limit(self.tokenizer, config)

    @property
    def max_seq_length(self) -> int | None:
        """Longest sequence in tokens, special ones included; None if there is no limit. Kept by the tokenizer."""
        limit = self.tokenizer.model_max_length
        return None if limit is None or limit >= _NO_LIMIT else int(limit)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.tokenizer.model_max_length = value or _NO_LIMIT

    @property
    def without_padding(self) -> bool:
        """Whether padding costs next to nothing, as only real tokens go through the encoder."""
        return is_prepared(self.auto_model)

    def token_encoder(self) -> TokenEncoder:
        """The part that turns texts into token ids, light enough to be sent elsewhere."""
        return TokenEncoder(self.tokenizer, self.max_seq_length, self.do_lower_case)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The padded batch of some texts; see :meth:`TokenEncoder.pad`."""
        encoder = self.token_encoder()
        return encoder.pad(encoder(texts))

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d), from ``input_ids`` and ``attention_mask`` (n, t)."""
        inputs = {name: features[name] for name in _INPUTS if name in features}
        with linear_layers_of(self.auto_model):
            if self.without_padding and has_padding(inputs):
                output = run_unpadded(self.auto_model, inputs)
            else:
                output = self.auto_model(**inputs, return_dict=True)
        result = {**features, "token_embeddings": output.last_hidden_state}
        if self.auto_model.config.output_hidden_states:
            result["all_layer_embeddings"] = output.hidden_states
        return result

    def get_embedding_dimension(self) -> int:
        """Dimension of a token's vector."""
        return int(self.auto_model.config.get_text_config().hidden_size)

    get_word_embedding_dimension = get_embedding_dimension

    def save(self, folder: str | Path) -> None:
        """Writes weights, configuration and tokenizer into an existing folder; of an adapted encoder, the active adapter.

        Raises:
            ValueError: If several adapters are active, or one would be written beside the weights of a whole model.
        """
        with quiet():
            if adapter_names(self.auto_model):
                save_adapter(Path(folder), self.auto_model)
            else:
                clear_adapter(Path(folder))
                self.auto_model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        super().save(folder)

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> Self:
        """Reads a module from its folder.

        Args:
            folder: Where :meth:`save`, or another program of this format, wrote it.
            **options: ``trust_remote_code``, ``cache_dir``, ``token``, ``local_files_only``, and ``model_args``,
                ``tokenizer_args`` and ``config_args``, which go before what the folder says.

        Raises:
            ModelFolderError: If weights are missing or pickled, or the folder wants another task than embedding
                texts from the last layer.
        """
        folder = Path(folder)
        config = _read_settings(folder)
        arguments: dict[str, Any] = {
            name: {**_saved_arguments(config, name), **(options.get(name) or {})}
            for name in ("model_args", "tokenizer_args", "config_args")
        }
        settings = {key: config[key] for key in cls.config_keys if key in config}
        names = ("trust_remote_code", "cache_dir", "token", "local_files_only")
        arguments |= {name: options[name] for name in names if name in options}
        return cls(folder, **arguments, **settings)

    def __repr__(self) -> str:
        """What ``print(model)`` shows of this module: the encoder's class, not its hundred layers."""
        kind = type(self.auto_model).__name__
        return (
            f"Transformer({kind}, max_seq_length={self.max_seq_length}, do_lower_case={self.do_lower_case})"
        )


def _limit(tokenizer: Any, config: Any) -> int | None:
    positions = getattr(config, "max_position_embeddings", None)
    limits = [tokenizer.model_max_length, positions if positions and positions > 0 else _NO_LIMIT]
    return min(limits) if min(limits) < _NO_LIMIT else None


def _load_tokenizer(folder: Path, trust_remote_code: bool, options: dict[str, Any]) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{folder} has no tokenizer that transformers can read: {error}") from error
    # Without a vocabulary transformers makes a tokenizer that knows special tokens only: every text would be unknown.
    files = sorted({"tokenizer.json", *tokenizer.vocab_files_names.values()})
    if not any((folder / name).is_file() for name in files):
        raise ModelFolderError(
            f"{folder} has no vocabulary for its tokenizer: expected one of {', '.join(files)}."
        )
    return tokenizer


def _read_settings(folder: Path) -> dict[str, Any]:
    for name in (Transformer.config_file_name, *_OLD_NAMES):
        if (folder / name).is_file():
            config = read_json(folder / name)
            _check_task(folder / name, config)
            return config
    return {}


def _check_task(path: Path, config: dict[str, Any]) -> None:
    task = config.get("transformer_task", "feature-extraction")
    text = config.get("modality_config", {}).get("text", {"method_output_name": "last_hidden_state"})
    if task != "feature-extraction" or text.get("method_output_name") not in ("last_hidden_state", None):
        found = f"task {task!r} with output {text.get('method_output_name')!r}"
        raise ModelFolderError(
            f"{path}: only 'feature-extraction' of text from last_hidden_state is read; found {found}."
        )


def _saved_arguments(config: dict[str, Any], name: str) -> dict[str, Any]:
    newer = {"tokenizer_args": "processor_kwargs"}.get(name, name.replace("args", "kwargs"))
    saved = {**config.get(name, {}), **config.get(newer, {})}
    saved.pop("trust_remote_code", None)  # a folder cannot vouch for itself
    return saved
