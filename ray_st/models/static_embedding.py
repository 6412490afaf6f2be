"""One vector per token, averaged over a text: embeddings at almost no cost."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ray_st.models.folder_files import ModelFolderError, check_weights, read_weights, write_weights
from ray_st.models.model_hub import find_folder
from ray_st.models.module import Features, LoadOptions, Module
from ray_st.models.tokens import PieceEncoder, own_backend

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_TOKENIZER = "tokenizer.json"


class StaticEmbedding(Module):
    """Embeds a text as the mean of its tokens' vectors; a text without tokens becomes zeros.

    Args:
        tokenizer: A ``tokenizers.Tokenizer`` or a fast tokenizer of transformers. Special tokens are not
            added.
        embedding_weights: (tokens, d), the initial vector of each id.
        embedding_dim: Dimension of random initial vectors, instead.

    Raises:
        ValueError: If the tokenizer is neither or has more tokens than there are vectors, or neither weights
            nor a dimension are given.
    """

    without_padding = True
    """Padding costs next to nothing: vectors are only looked up for real tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer | PreTrainedTokenizerFast,
        embedding_weights: Tensor | np.ndarray | None = None,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = _as_tokenizer(tokenizer)
        tokens = 1 + max(self.tokenizer.get_vocab().values(), default=-1)  # ids may have gaps
        if embedding_weights is not None:
            weights = torch.as_tensor(embedding_weights)
            weights = weights if weights.is_floating_point() else weights.float()
            if weights.dim() != 2 or len(weights) < tokens:
                raise ValueError(
                    f"embedding_weights must be (tokens, dimension) for {tokens} tokens; got the shape "
                    f"{tuple(weights.shape)}."
                )
            self.embedding = nn.EmbeddingBag.from_pretrained(weights, freeze=False)
        elif embedding_dim is not None:
            self.embedding = nn.EmbeddingBag(tokens, embedding_dim)
        else:
            raise ValueError("StaticEmbedding needs embedding_weights, or embedding_dim for random ones.")

    @property
    def num_embeddings(self) -> int:
        """Number of vectors."""
        return self.embedding.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Dimension of a vector."""
        return self.embedding.embedding_dim

    def get_embedding_dimension(self) -> int:
        """Dimension of a vector."""
        return self.embedding_dim

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int | None:
        """Longest text in tokens; None if there is no limit. Stored and saved with the tokenizer."""
        truncation = self.tokenizer.truncation
        return None if truncation is None else int(truncation["max_length"])

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if value is None:
            self.tokenizer.no_truncation()
        else:
            self.tokenizer.enable_truncation(value)

    def token_encoder(self) -> PieceEncoder:
        """The part that turns texts into token ids, light enough to be sent to other processes."""
        return PieceEncoder(self.tokenizer, self.max_seq_length)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The padded batch of some texts; see :meth:`ray_st.models.tokens.PieceEncoder.pad`."""
        encoder = self.token_encoder()
        return encoder.pad(encoder(texts))

    def forward(self, features: Features) -> Features:
        """The features with ``sentence_embedding`` (n, d).

        Args:
            features: ``input_ids`` and ``attention_mask`` (n, t); or, in the peer's form, the concatenated
                ``input_ids`` of all texts (tokens,) and the ``offsets`` (n,) at which they start.
        """
        ids, offsets = features["input_ids"], features.get("offsets")
        if offsets is None:
            real = features["attention_mask"].bool()
            lengths = real.sum(dim=1)
            ids, offsets = ids[real], lengths.cumsum(0) - lengths
        return {**features, "sentence_embedding": self.embedding(ids, offsets)}

    def save(self, folder: str | Path) -> None:
        """Writes vectors and tokenizer into an existing folder."""
        write_weights(Path(folder), self.state_dict())
        self.tokenizer.save(str(Path(folder) / _TOKENIZER))

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder, or a model2vec model.

        Raises:
            ModelFolderError: If tokenizer or vectors are missing or do not fit each other, or vectors are
                pickled.
        """
        folder = Path(folder)
        tokenizer, weights = _read_tokenizer(folder / _TOKENIZER), _read_vectors(folder)
        try:
            return cls(tokenizer, weights)
        except ValueError as error:
            raise ModelFolderError(f"The weights in {folder} do not fit its {_TOKENIZER}: {error}") from error

    @classmethod
    def from_model2vec(cls, model_id_or_path: str | Path) -> Self:
        """Reads a model2vec model; the model2vec package is not needed.

        Args:
            model_id_or_path: A folder with ``model.safetensors`` and ``tokenizer.json``, or a name on the
                Hub.

        Raises:
            ModelFolderError: If there is no such model, or it is incomplete.
        """
        return cls.load(find_folder(model_id_or_path))

    @classmethod
    def from_distillation(
        cls,
        model_name: str | Path,
        vocabulary: list[str] | None = None,
        device: str | None = None,
        pca_dims: int | None = 256,
        sif_coefficient: float | None = 1e-4,
        token_remove_pattern: str | None = r"\[unused\d+\]",
        quantize_to: str = "float32",
        **options: object,
    ) -> Self:
        """Distills the vectors of tokens from an encoder, with the model2vec package.

        Args:
            model_name: The encoder: a folder in the format of transformers, or a name on the Hub.
            vocabulary: Words to add as tokens.
            device: Where the encoder runs; model2vec chooses by default.
            pca_dims: Dimensions to keep; None keeps all.
            sif_coefficient: Strength of the weights that reduce the influence of frequent tokens; None for no
                weights.
            token_remove_pattern: Tokens that match it are removed.
            quantize_to: Data type of the vectors.
            **options: More arguments of ``model2vec.distill.distill``.

        Raises:
            ModelFolderError: If there is no such encoder, or its weights are pickled.
            ImportError: If model2vec is not installed with its extra "distill".
        """
        folder = find_folder(model_name)
        check_weights(folder)
        try:
            distill = importlib.import_module("model2vec.distill").distill
        except ImportError as error:
            raise ImportError("Distillation needs model2vec: pip install 'ray-st[distill]'.") from error
        made = distill(
            str(folder),
            vocabulary=vocabulary,
            device=device,
            pca_dims=pca_dims,
            sif_coefficient=sif_coefficient,
            token_remove_pattern=token_remove_pattern,
            quantize_to=quantize_to,
            **options,
        )
        parts = {"embeddings": made.embedding, "mapping": made.token_mapping, "weights": made.weights}
        known = {name: torch.as_tensor(part) for name, part in parts.items() if part is not None}
        return cls(made.tokenizer, fold(known))


def _as_tokenizer(tokenizer: object) -> Tokenizer:
    """A tokenizer of our own that truncates like the given one, and never pads."""
    found = tokenizer.backend_tokenizer if isinstance(tokenizer, PreTrainedTokenizerFast) else tokenizer
    if not isinstance(found, Tokenizer):
        raise ValueError(
            "StaticEmbedding needs a tokenizers.Tokenizer or a fast tokenizer of transformers; got "
            f"{type(tokenizer).__name__}."
        )
    own = own_backend(found)
    if found.truncation is not None:
        own.enable_truncation(**found.truncation)
    return own


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ModelFolderError(f"{path.parent} has no {path.name}, which a StaticEmbedding module needs.")
    return Tokenizer.from_str(path.read_text(encoding="utf-8"))


def _read_vectors(folder: Path) -> Tensor:
    """The vectors, in this format's form or folded from model2vec's."""
    weights = read_weights(folder)
    if "embedding.weight" in weights:
        return weights["embedding.weight"]
    if "embeddings" not in weights:
        raise ModelFolderError(
            f"The weights in {folder} have neither embedding.weight nor embeddings; found {sorted(weights)}."
        )
    return fold(weights)


def fold(weights: Mapping[str, Tensor]) -> Tensor:
    """One vector per token id (tokens, d) from the tensors of a model2vec model.

    Args:
        weights: ``embeddings`` (rows, d); optionally ``mapping`` (tokens,), the row of each token, and
            ``weights`` (tokens,), a factor for each token.
    """
    vectors = weights["embeddings"]
    if "mapping" in weights:
        vectors = vectors[weights["mapping"].long()]
    if "weights" in weights:
        wide = torch.promote_types(vectors.dtype, torch.float32)
        vectors = (vectors.to(wide) * weights["weights"].unsqueeze(1)).to(wide)
    return vectors.contiguous()
