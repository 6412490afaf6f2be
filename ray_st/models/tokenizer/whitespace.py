"""Words between white space."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import ClassVar

from ray_st.models.tokenizer.word import VocabularyTokenizer


class WhitespaceTokenizer(VocabularyTokenizer):
    """Takes a text apart at white space.

    A word is looked up as it is, then without punctuation around it, then that in lower case.
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
