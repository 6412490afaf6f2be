"""One vector per word, such as those of word2vec and GloVe."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ray_st.models.folder_files import ModelFolderError, read_weights, write_weights
from ray_st.models.module import Features, LoadOptions, Module, read_config
from ray_st.models.module_table import import_name, live_part, own_name
from ray_st.models.tokenizer.pretrained import TransformersTokenizerWrapper
from ray_st.models.tokenizer.word import WhitespaceTokenizer, WordTokenizer
from ray_st.models.tokens import WordEncoder

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

logger = logging.getLogger(__name__)

PADDING = "PADDING_TOKEN"
"""The word with id 0 in vocabularies read from text files; its vector is zero."""

# Names from the peer's older releases, which all of its releases can read.
_PEER = "sentence_transformers.models.tokenizer"
_WRITTEN = {
    "WhitespaceTokenizer": f"{_PEER}.WhitespaceTokenizer.WhitespaceTokenizer",
    "PhraseTokenizer": f"{_PEER}.PhraseTokenizer.PhraseTokenizer",
    "TransformersTokenizerWrapper": f"{_PEER}.WordTokenizer.TransformersTokenizerWrapper",
}


class WordEmbeddings(Module):
    """Turns the words of a text into vectors, independent of their context.

    Args:
        tokenizer: A :class:`ray_st.models.tokenizer.WordTokenizer`, or a tokenizer of transformers.
        embedding_weights: (words, d), the vector of each id.
        update_embeddings: Whether training changes the vectors.
        max_seq_length: Number of words of a text to use.

    Raises:
        ValueError: If the tokenizer is neither, or has more words than there are vectors.
    """

    config_file_name: ClassVar[str] = "wordembedding_config.json"

    def __init__(
        self,
        tokenizer: WordTokenizer | PreTrainedTokenizerBase,
        embedding_weights: Tensor | np.ndarray | Sequence[Sequence[float]],
        update_embeddings: bool = False,
        max_seq_length: int | None = 1_000_000,
    ) -> None:
        super().__init__()
        if not isinstance(embedding_weights, Tensor):
            embedding_weights = torch.as_tensor(np.asarray(embedding_weights))
        self.tokenizer = _as_word_tokenizer(tokenizer)
        _check_size(self.tokenizer, embedding_weights)
        weights = embedding_weights.float().clone()
        self.emb_layer = nn.Embedding.from_pretrained(weights, freeze=not update_embeddings)
        self.update_embeddings = update_embeddings
        self.max_seq_length = max_seq_length

    def token_encoder(self) -> WordEncoder:
        """The part that turns texts into ids, light enough to be sent to other processes."""
        return WordEncoder(self.tokenizer, self.max_seq_length)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The padded batch of some texts; see :meth:`ray_st.models.tokens.WordEncoder.pad`."""
        encoder = self.token_encoder()
        return encoder.pad(encoder(texts))

    def forward(self, features: Features) -> Features:
        """The features with ``token_embeddings`` (n, t, d), from ``input_ids`` (n, t)."""
        return {**features, "token_embeddings": self.emb_layer(features["input_ids"])}

    def get_embedding_dimension(self) -> int:
        """Dimension of a word's vector."""
        return self.emb_layer.embedding_dim

    get_word_embedding_dimension = get_embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """The tokenizer's class and the settings."""
        kind = type(self.tokenizer)
        return {
            "tokenizer_class": _WRITTEN.get(kind.__name__, f"{kind.__module__}.{kind.__qualname__}"),
            "update_embeddings": self.update_embeddings,
            "max_seq_length": self.max_seq_length,
        }

    def save(self, folder: str | Path) -> None:
        """Writes settings, vectors and tokenizer into an existing folder."""
        super().save(folder)
        write_weights(Path(folder), self.state_dict())
        self.tokenizer.save(folder)

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder.

        Args:
            folder: Where :meth:`save` wrote it.
            **options: With ``trust_remote_code`` the tokenizer may be a class from outside this package.

        Raises:
            ModelFolderError: If settings, vocabulary or vectors are missing or do not fit each other, vectors
                are pickled, or the tokenizer is of an unknown class.
        """
        folder = Path(folder)
        config = read_config(cls, folder)
        name, trust = config.pop("tokenizer_class", ""), options.get("trust_remote_code", False)
        kind = _tokenizer_class(folder / cls.config_file_name, name, trust)
        weights = read_weights(folder)
        if "emb_layer.weight" not in weights:
            raise ModelFolderError(
                f"The weights in {folder} have no emb_layer.weight; found {sorted(weights)}."
            )
        tokenizer = kind.load(str(folder))
        try:
            return cls(tokenizer, weights["emb_layer.weight"], **config)
        except (TypeError, ValueError) as error:
            raise ModelFolderError(f"{folder} is not a valid {cls.__name__}: {error}") from error

    @classmethod
    def from_text_file(
        cls,
        embeddings_file_path: str | Path,
        update_embeddings: bool = False,
        item_separator: str = " ",
        tokenizer: WordTokenizer | None = None,
        max_vocab_size: int | None = None,
    ) -> Self:
        """Reads vectors from a text file with a word and its numbers per line, such as those of GloVe.

        A first line of two items (word2vec's numbers of words and dimensions) is skipped. Lines with more or
        fewer numbers than the first are skipped with a warning. If a word occurs twice, its last vector is
        used. The word with id 0 is :data:`PADDING`, with a zero vector.

        Args:
            embeddings_file_path: The file; decompressed if its name ends in ".gz".
            update_embeddings: Whether training changes the vectors.
            item_separator: Separator between the items of a line.
            tokenizer: Gets the words as its vocabulary; by default a :class:`WhitespaceTokenizer`.
            max_vocab_size: Number of words to read; all by default.

        Raises:
            ValueError: If there is no such file, it has no vectors, or an item is not a number.
        """
        path = Path(embeddings_file_path)
        if not path.is_file():
            raise ValueError(
                f"There is no file {path} with word vectors. Download it first; this is not done here."
            )
        with _opened(path) as lines:
            vectors = _read_vectors(path, lines, item_separator, max_vocab_size)
        tokenizer = tokenizer or WhitespaceTokenizer()
        tokenizer.set_vocab(list(vectors))
        return cls(tokenizer, np.stack(list(vectors.values())), update_embeddings)


def _as_word_tokenizer(tokenizer: object) -> WordTokenizer:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return TransformersTokenizerWrapper(tokenizer)
    if not isinstance(tokenizer, WordTokenizer):
        raise ValueError(
            "WordEmbeddings needs a WordTokenizer or a tokenizer of transformers; got "
            f"{type(tokenizer).__name__}."
        )
    return tokenizer


def _check_size(tokenizer: WordTokenizer, weights: Tensor) -> None:
    if weights.dim() != 2:
        raise ValueError(
            f"embedding_weights must be (words, dimension); got the shape {tuple(weights.shape)}."
        )
    vocabulary = tokenizer.get_vocab()
    by_id = isinstance(vocabulary, Mapping)  # with ids, which may have gaps
    words = 1 + max(vocabulary.values(), default=-1) if by_id else len(vocabulary)
    if words > len(weights):
        raise ValueError(f"The tokenizer has {words} words, but there are only {len(weights)} vectors.")


def _tokenizer_class(source: Path, path: str, trust: bool) -> Any:
    name = own_name(path)
    if name in _WRITTEN:
        return import_name(f"ray_st.models.tokenizer.{name}")
    if (tokenizer := live_part(path)) is not None:
        return type(tokenizer)
    if name is not None or not trust:
        raise ModelFolderError(
            f"{source}: the tokenizer_class must be one of {', '.join(_WRITTEN)}; found {path!r}. A class "
            "from elsewhere is imported only with trust_remote_code=True."
        )
    return import_name(path)


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _read_vectors(
    path: Path, lines: Iterator[str] | TextIO, separator: str, most: int | None
) -> dict[str, np.ndarray]:
    vectors: dict[str, np.ndarray] = {}
    wrong: list[int] = []
    for number, line in enumerate(lines, 1):
        word, *items = line.rstrip().split(separator)
        if not vectors:
            if len(items) < 2:  # word2vec's first line: the numbers of words and dimensions
                continue
            vectors[PADDING] = np.zeros(len(items), dtype=np.float32)
        if len(items) != len(vectors[PADDING]):
            wrong.append(number)
            continue
        try:
            vectors[word] = np.array(items, dtype=np.float32)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: expected a word and numbers, found {line!r:.80}."
            ) from error
        if most and len(vectors) > most:
            break
    if not vectors:
        raise ValueError(f"{path} has no line with a word and its numbers, separated by {separator!r}.")
    if wrong:
        text = "%s: %d lines have other than %d numbers and were skipped, the first is line %d."
        logger.warning(text, path, len(wrong), len(vectors[PADDING]), wrong[0])
    return vectors
