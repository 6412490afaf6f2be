"""Sentences with noisy copies, for a decoder that learns to restore them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import Dataset

from ray_st.datasets.chance import draw
from ray_st.readers.input_example import InputExample

# A word, also "don't", "3.5" or "well-known", or any other single character.
_TOKEN = re.compile(r"\w+(?:['’.-]\w+)*|[^\w\s]")
_CLOSING = set(".,;:!?%)]}»”’…")


class DenoisingAutoEncoderDataset(Dataset[InputExample]):
    """Examples of a noisy sentence and the sentence, for :class:`ray_st.losses.DenoisingAutoEncoderLoss`.

    Args:
        sentences: The sentences.
        noise_fn: Adds noise to a sentence; by default :meth:`delete`. Pass your own for scripts without
            spaces between words.
        seed: Determines the deleted words, together with the row and the number of previous reads of it.
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
        """Deletes each word with a given probability, but never all words.

        Words are runs of letters and digits, including apostrophes, full stops and hyphens between them; any
        other character is a word of its own. Closing punctuation stays attached to the word before it; white
        space becomes one space.

        Args:
            text: A sentence.
            del_ratio: Probability of deleting a word, 0 to 1.
            rng: Source of randomness; unseeded by default.

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
