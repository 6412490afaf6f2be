"""Words and phrases of several words."""

from __future__ import annotations

import importlib
import string
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from ray_st.models.tokenizer.stop_words import ENGLISH_STOP_WORDS
from ray_st.models.tokenizer.word import VocabularyTokenizer


class PhraseTokenizer(VocabularyTokenizer):
    """Splits a text into words with NLTK, and joins words that form a phrase of the vocabulary.

    "New York is big" becomes "New_York", "is", "big" if the vocabulary has "New_York", as that of word2vec's
    Google News vectors does. Longer phrases take precedence. A word is looked up unchanged, then in lower
    case, then also without surrounding punctuation.

    Args:
        vocab: The words and phrases, in the order of their ids.
        stop_words: Words to leave out of a text.
        do_lower_case: Kept for the folder format; lower-case forms are always looked up.
        ngram_separator: Separator between the words of a phrase; None for a vocabulary without phrases.
        max_ngram_length: Number of words in the longest phrase.
    """

    config_file_name: ClassVar[str] = "phrasetokenizer_config.json"

    def __init__(
        self,
        vocab: Iterable[str] = (),
        stop_words: Iterable[str] = ENGLISH_STOP_WORDS,
        do_lower_case: bool = False,
        ngram_separator: str | None = "_",
        max_ngram_length: int = 5,
    ) -> None:
        self.ngram_separator = ngram_separator
        self.max_ngram_length = max_ngram_length
        super().__init__(vocab, stop_words, do_lower_case)

    def set_vocab(self, vocab: Iterable[str]) -> None:
        """Sets the words and phrases, in the order of their ids.

        Raises:
            ValueError: If one occurs twice.
        """
        super().set_vocab(vocab)
        lengths = {word: self._length(word) for word in self.vocab}
        self.phrases = {word for word, length in lengths.items() if 1 < length <= self.max_ngram_length}
        self.phrase_lengths = sorted({lengths[word] for word in self.phrases}, reverse=True)

    def _length(self, word: str) -> int:
        mark = self.ngram_separator
        # Two separators in a row are an error in the vocabulary, not a phrase.
        return 1 if mark is None or mark * 2 in word else word.count(mark) + 1

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text's words and phrases; stop words and words without an id are left out.

        Raises:
            ImportError: If NLTK is not installed.
        """
        words = _word_splitter()(text, preserve_line=True)
        for length in self.phrase_lengths:
            self._join(words, length)
        found = (self.find(_forms(word)) for word in words)
        return [place for place in found if place is not None]

    def _join(self, words: list[str], length: int) -> None:
        start = 0
        while start <= len(words) - length:
            phrase = str(self.ngram_separator).join(words[start : start + length])
            known = next((form for form in (phrase, phrase.lower()) if form in self.phrases), None)
            if known is not None:
                words[start : start + length] = [known]
            start += 1

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""
        own = {"ngram_separator": self.ngram_separator, "max_ngram_length": self.max_ngram_length}
        return {**super().settings(), **own}


def _forms(word: str) -> Iterator[str]:
    yield word
    yield (small := word.lower())
    yield small.strip(string.punctuation)


def _word_splitter() -> Callable[..., list[str]]:
    try:
        return importlib.import_module("nltk").word_tokenize
    except ImportError as error:
        raise ImportError("PhraseTokenizer needs NLTK: pip install 'ray-st[phrases]'.") from error
