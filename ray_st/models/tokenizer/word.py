"""Tokenizers of words, with a vocabulary of their own."""

from __future__ import annotations

import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ray_st.models.folder_files import ModelFolderError, read_json, write_json
from ray_st.models.tokenizer.stop_words import ENGLISH_STOP_WORDS

if TYPE_CHECKING:
    from typing_extensions import Self


class WordTokenizer(ABC):
    """Turns a text into the ids of its words."""

    @abstractmethod
    def set_vocab(self, vocab: Iterable[str]) -> None:
        """Sets the words, in the order of their ids."""

    @abstractmethod
    def get_vocab(self) -> Any:
        """The words: a list in the order of their ids, or a dict from words to ids."""

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """The ids of a text's words; words without one are left out."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer into an existing folder."""

    @classmethod
    @abstractmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a tokenizer from its folder."""


class VocabularyTokenizer(WordTokenizer):
    """A tokenizer with a list of words, a set of words to leave out, and a JSON file with both.

    A subclass with more arguments overrides :meth:`settings`.

    Args:
        vocab: The words, in the order of their ids.
        stop_words: Words to leave out of a text.
        do_lower_case: Whether to lowercase texts first.
    """

    config_file_name: ClassVar[str]

    def __init__(
        self,
        vocab: Iterable[str] = (),
        stop_words: Iterable[str] = ENGLISH_STOP_WORDS,
        do_lower_case: bool = False,
    ) -> None:
        self.stop_words = set(stop_words)
        self.do_lower_case = do_lower_case
        self.set_vocab(vocab)

    def set_vocab(self, vocab: Iterable[str]) -> None:
        """Sets the words, in the order of their ids.

        Raises:
            ValueError: If a word occurs twice: it would have two ids.
        """
        self.vocab = list(vocab)
        self.word2idx = {word: place for place, word in enumerate(self.vocab)}
        if len(self.word2idx) < len(self.vocab):
            twice = next(word for place, word in enumerate(self.vocab) if self.word2idx[word] != place)
            raise ValueError(f"Each word of a vocabulary must occur once; {twice!r} occurs more often.")

    def get_vocab(self) -> list[str]:
        """The words, in the order of their ids."""
        return self.vocab

    def find(self, forms: Iterable[str]) -> int | None:
        """The id of the first form of a word that has one; None if none has, or a stop word comes first."""
        for form in forms:
            if form in self.stop_words:
                return None
            if form and form in self.word2idx:
                return self.word2idx[form]
        return None

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""
        return {
            "vocab": self.vocab,
            "stop_words": sorted(self.stop_words),
            "do_lower_case": self.do_lower_case,
        }

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer into an existing folder."""
        write_json(Path(folder) / self.config_file_name, self.settings())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a tokenizer from its folder.

        Raises:
            ModelFolderError: If its file is missing or invalid.
        """
        path = Path(folder) / cls.config_file_name
        config = read_json(path)
        if config is None:
            raise ModelFolderError(f"{folder} has no {path.name}, the vocabulary of its {cls.__name__}.")
        try:
            return cls(**config)
        except (TypeError, ValueError) as error:
            raise ModelFolderError(f"{path} is not a valid {cls.__name__}: {error}") from error


class WhitespaceTokenizer(VocabularyTokenizer):
    """Splits a text at white space.

    A word is looked up unchanged, then without surrounding punctuation, then also in lower case.
    """

    config_file_name: ClassVar[str] = "whitespacetokenizer_config.json"

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text's words; stop words and words without an id are left out."""
        words = (text.lower() if self.do_lower_case else text).split()
        found = (self.find(_forms(word)) for word in words)
        return [place for place in found if place is not None]


def _forms(word: str) -> Iterator[str]:
    yield word
    yield (bare := word.strip(string.punctuation))
    yield bare.lower()
