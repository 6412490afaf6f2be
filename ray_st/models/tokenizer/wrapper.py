"""A tokenizer of transformers in the place of a word tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from ray_st.models.files import ModelFolderError
from ray_st.models.tokenizer.word import WordTokenizer

if TYPE_CHECKING:
    from typing_extensions import Self


class TransformersTokenizerWrapper(WordTokenizer):
    """Gives a text the ids that a tokenizer of transformers gives it, special ones included.

    Args:
        tokenizer: That tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def set_vocab(self, vocab: Iterable[str]) -> None:
        """Does nothing: the tokenizer has its vocabulary."""

    def get_vocab(self) -> dict[str, int]:
        """The tokens and their ids."""
        return self.tokenizer.get_vocab()

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return self.tokenizer(text, verbose=False)["input_ids"]

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer into an existing folder."""
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a tokenizer from its folder.

        Raises:
            ModelFolderError: If there is none, or none with a vocabulary.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ModelFolderError(
                f"{folder} has no tokenizer that transformers can read: {error}"
            ) from error
        # Without a vocabulary transformers makes a tokenizer that knows special tokens only.
        files = sorted({"tokenizer.json", *tokenizer.vocab_files_names.values()})
        if not any((Path(folder) / name).is_file() for name in files):
            raise ModelFolderError(f"{folder} has no vocabulary: expected one of {', '.join(files)}.")
        return cls(tokenizer)
