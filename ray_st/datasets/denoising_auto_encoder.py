"""Sentences with a noisy copy, for a decoder that learns to restore them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import Dataset

from ray_st.datasets.chance import draw
from ray_st.readers.input_example import InputExample

_TOKEN = re.compile(
    r"\w+(?:['’.-]\w+)*|[^\w\s]"
)  # a word, also "don't", "3.5" or "well-known", or one other sign
_CLOSING = set(".,;:!?%)]}»”’…")


class DenoisingAutoEncoderDataset(Dataset[InputExample]):
    """Examples of two texts, a noisy sentence and the sentence: for :class:`ray_st.losses.DenoisingAutoEncoderLoss`.

    Args:
        sentences: The sentences.
        noise_fn: Makes a noisy sentence of one; by default :meth:`delete`. For writing without blanks between words
            bring your own.
        seed: Decides the words that are deleted, together with the row and how often it was asked for.
    """

    def __init__(
        self, sentences: Sequence[str], noise_fn: Callable[[str], str] | None = None, *, seed: int = 0
    ) -> None:
        self.sentences = sentences
        self.noise_fn = noise_fn
        self.seed = seed
        self._visits: Counter[int] = Counter()

    def __getitem__(self, item: int) -> InputExample:
        sentence = self.sentences[item]
        if self.noise_fn is not None:
            return InputExample(texts=[self.noise_fn(sentence), sentence])
        row = item % len(self.sentences)
        noisy = self.delete(sentence, rng=draw(self.seed, row, self._visits[row]))
        self._visits[row] += 1
        return InputExample(texts=[noisy, sentence])

    def __len__(self) -> int:
        return len(self.sentences)

    @staticmethod
    def delete(text: str, del_ratio: float = 0.6, rng: np.random.Generator | None = None) -> str:
        """Leaves out each word with a probability, but never all.

        Words are runs of letters and digits, with apostrophes, full stops and hyphens inside; other signs count as
        words of their own. Signs that close something stay next to the word before them; blanks become one space.

        Args:
            text: A sentence.
            del_ratio: Probability that a word is left out, 0 to 1.
            rng: Decides; by default unpredictable.

        Raises:
            ValueError: If the ratio is outside 0 to 1.
        """
        if not 0 <= del_ratio <= 1:
            raise ValueError(f"del_ratio must be from 0 to 1; got {del_ratio}.")
        words = list(_TOKEN.finditer(text))
        if not words:
            return text
        rng = rng or np.random.default_rng()
        keep = rng.random(len(words)) >= del_ratio
        if not keep.any():
            keep[rng.integers(len(words))] = True
        return _joined(text, words, np.flatnonzero(keep).tolist())


def _joined(text: str, words: list[re.Match[str]], kept: list[int]) -> str:
    parts = [words[kept[0]].group()]
    for before, place in pairwise(kept):
        word = words[place]
        glued = word.start() > 0 and not text[word.start() - 1].isspace()
        parts += ["" if glued and (place == before + 1 or word.group() in _CLOSING) else " ", word.group()]
    return "".join(parts)
