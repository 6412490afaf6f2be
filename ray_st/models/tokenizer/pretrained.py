"""Tokenizers of transformers: reading, writing with the model's settings, and use as word tokenizers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ray_st.models.folder_files import ModelFolderError, read_json, write_json
from ray_st.models.tokenizer.word import WordTokenizer
from ray_st.models.tokens import TokenEncoder

if TYPE_CHECKING:
    from typing_extensions import Self


CONFIG = "tokenizer_config.json"
BACKEND = "tokenizer.json"
NO_LIMIT = int(1e30)
"""The ``model_max_length`` of transformers' tokenizers that have no limit."""

# Names of access tokens, as opposed to tokens of texts (pad_token, image_token).
_KEY = re.compile(r"^(token|.*(auth|access|hub|api|hf|bearer)_token)$", re.I)
_SECRET = re.compile(r"secret|passw|api_?key|access_?key|credential|authorization", re.I)

# Settings of calls that transformers reads from tokenizer.json, and would write next to the right values.
_CALLS = ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "pad_token_type_id")


def load_tokenizer(
    folder: Path, trust_remote_code: bool = False, options: dict[str, Any] | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Args:
        folder: A model's folder.
        trust_remote_code: Whether Python files of the folder may be run.
        options: More arguments of ``AutoTokenizer.from_pretrained``.

    Raises:
        ModelFolderError: If there is none, or none with a vocabulary.
        ValueError: If an option is an access token, which transformers would mistake for a token of texts.
    """
    options = dict(options or {})
    if given := options.pop("use_auth_token", None):
        options.setdefault("token", given)
    if keys := sorted(name for name in options if name != "token" and _KEY.search(name)):
        raise ValueError(
            f"The tokenizer's arguments name {keys[0]!r}, which would become a word of its vocabulary and be "
            "saved with it. For private models on the Hub pass token=…."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{folder} has no tokenizer that transformers can read: {error}") from error
    # Without a vocabulary transformers makes a tokenizer of special tokens only: every word would be unknown.
    # Tokenizers of bytes and characters (ByT5, CANINE) have no vocabulary, and name no file for it.
    names = set(tokenizer.vocab_files_names.values())
    files = sorted({BACKEND, *names}) if names else [CONFIG]
    if not any((folder / name).is_file() for name in files):
        what = "vocabulary for its tokenizer" if names else "settings of its tokenizer"
        raise ModelFolderError(f"{folder} has no {what}: expected one of {', '.join(files)}.")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, max_seq_length: int | None) -> None:
    """Writes a tokenizer with the model's truncation and padding, whatever its last call asked for.

    Args:
        tokenizer: The tokenizer.
        folder: An existing folder.
        max_seq_length: Longest sequence in tokens; None for no limit.
    """
    tokenizer.save_pretrained(folder)
    config = read_json(folder / CONFIG, {})
    kept = {key: value for key, value in _public(config).items() if key not in _CALLS}
    if kept != config:
        write_json(folder / CONFIG, kept)
    path = folder / BACKEND
    if not path.is_file():
        return
    state = read_json(path)
    now = {"truncation": _truncation(tokenizer, max_seq_length), "padding": _padding(tokenizer)}
    if {key: state.get(key) for key in now} != now:
        path.write_text(json.dumps({**state, **now}, indent=2, ensure_ascii=False), encoding="utf-8")


def _public(value: object) -> Any:
    """Settings without those whose names mark them as secret."""
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    secret = {name for name in value if _KEY.search(name) or _SECRET.search(name)}
    return {name: _public(inner) for name, inner in value.items() if name not in secret}


def _truncation(tokenizer: PreTrainedTokenizerBase, limit: int | None) -> dict[str, Any] | None:
    if limit is None:
        return None
    side = tokenizer.truncation_side.capitalize()
    return {"direction": side, "max_length": limit, "strategy": "LongestFirst", "stride": 0}


def _padding(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    if tokenizer.pad_token_id is None:
        return None
    return {
        "strategy": "BatchLongest",
        "direction": tokenizer.padding_side.capitalize(),
        "pad_to_multiple_of": None,
        "pad_id": tokenizer.pad_token_id,
        "pad_type_id": tokenizer.pad_token_type_id,
        "pad_token": str(tokenizer.pad_token),
    }


class TransformersTokenizerWrapper(WordTokenizer):
    """Wraps a tokenizer of transformers; the ids of a text include special ones.

    Args:
        tokenizer: That tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def set_vocab(self, vocab: Iterable[str]) -> None:
        """Does nothing: the tokenizer already has a vocabulary."""

    def get_vocab(self) -> dict[str, int]:
        """The tokens and their ids."""
        return self.tokenizer.get_vocab()

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return TokenEncoder(self.tokenizer)([text])[0].tolist()

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer into an existing folder."""
        save_tokenizer(self.tokenizer, Path(folder), None)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a tokenizer from its folder.

        Raises:
            ModelFolderError: If there is none, or none with a vocabulary.
        """
        return cls(load_tokenizer(Path(folder)))
