"""A tokenizer of transformers in the place of a word tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_st.models.tokenizer.word import WordTokenizer
from ray_st.models.tokenizer_folder import load_tokenizer, save_tokenizer
from ray_st.models.tokens import TokenEncoder

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
