"""From texts to token ids, and from token ids to a padded batch: light, picklable, usable without a model."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from ray_st.models.chat import ChatTemplate, common_end

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_CHUNK = 8192  # texts in one call of the tokenizer: its results are large objects, token ids are not


def own_backend(backend: Tokenizer) -> Tokenizer:
    """A tokenizer with the vocabulary of another, shared, and truncation and padding of its own, both off.

    A tokenizer of transformers keeps what its last call asked for in its backend: whoever shares the backend is cut and
    padded by it, and tokenizers refuse to change while another thread uses them.
    """
    own = Tokenizer(backend.model)
    for name in _PARTS:
        if getattr(backend, name) is not None:
            setattr(own, name, getattr(backend, name))
    added = backend.get_added_tokens_decoder()
    own.add_tokens([token for _, token in sorted(added.items())])
    if own.get_added_tokens_decoder() != added:  # ids with gaps between them
        own = deepcopy(backend)
        own.no_truncation()
        own.no_padding()
    own.encode_special_tokens = backend.encode_special_tokens
    return own


@dataclass(frozen=True)
class TokenEncoder:
    """A tokenizer with the settings that decide which ids a text gets.

    ``encoder.pad(encoder(texts))`` is what the model's ``tokenize(texts)`` returns. What others ask of the tokenizer
    meanwhile makes no difference.

    Args:
        tokenizer: A tokenizer of transformers.
        max_seq_length: Longest sequence in tokens, special ones included; None doesn't truncate.
        do_lower_case: Whether texts are lower-cased first.
        chat: The template that texts are put into; None for texts as they are.
    """

    tokenizer: Any
    max_seq_length: int | None = None
    do_lower_case: bool = False
    chat: ChatTemplate | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what was derived from them is quickly made again."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, with special tokens, truncated, not padded: int32 arrays (t,).

        Faster the more texts there are in one call.
        """
        ids: list[np.ndarray] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            chunk = [text.lower() for text in chunk] if self.do_lower_case else chunk
            chunk = self.chat.render(self.tokenizer, chunk) if self.chat else chunk
            ids += [self._ended(np.asarray(row, dtype=np.int32)) for row in self._ids(chunk)]
        return ids

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not getattr(self.tokenizer, "is_fast", False):
            return self.tokenizer(
                texts,
                truncation=self.max_seq_length is not None,
                max_length=self.max_seq_length,
                padding=False,
                add_special_tokens=self.chat is None,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        # What the tokenizer's own call does, without its detour over a dict for each text (2.4 times faster).
        rows = self._backend.encode_batch_fast(texts, add_special_tokens=self.chat is None)
        return [row.ids for row in rows]

    @cached_property
    def _backend(self) -> Tokenizer:
        own = own_backend(self.tokenizer.backend_tokenizer)
        own.encode_special_tokens = self.tokenizer.split_special_tokens
        if self.max_seq_length is not None:
            own.enable_truncation(self.max_seq_length, direction=self.tokenizer.truncation_side)
        return own

    def _ended(self, ids: np.ndarray) -> np.ndarray:
        """A text's ids, with the end of the chat's template where truncation may have taken it."""
        if self.chat is not None and len(ids) == self.max_seq_length and len(end := self._end[-len(ids) :]):
            ids[-len(end) :] = end
        return ids

    @cached_property
    def _end(self) -> np.ndarray:
        """The ids that the chat's template puts behind every text."""
        if self.chat is None or not self.chat.keeps_end:
            return np.empty(0, dtype=np.int32)
        whole = replace(self, max_seq_length=None)
        rows = whole._ids(self.chat.renderings(self.tokenizer))
        return np.array(common_end(*rows), dtype=np.int32)

    def pad(self, ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A batch of the texts' ids, padded to the longest on the tokenizer's side; one column wide at least.

        Args:
            ids: n arrays (t_i,), as the encoder returns them.

        Returns:
            ``input_ids``, ``attention_mask`` and, for tokenizers that have them, ``token_type_ids``: int64 (n, t).

        Raises:
            ValueError: If lengths differ and the tokenizer has no padding token.
        """
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        width = max(int(lengths.max(initial=0)), min(len(lengths), 1))  # texts may have no token at all
        place = np.arange(width)
        left = self.tokenizer.padding_side == "left"
        real = place >= (width - lengths)[:, None] if left else place < lengths[:, None]
        tokens = np.full(real.shape, self._filler(real), dtype=np.int64)
        if len(ids):
            tokens[real] = np.concatenate(ids)
        batch = {
            "input_ids": torch.from_numpy(tokens),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
        }
        if "token_type_ids" in self.tokenizer.model_input_names:
            batch["token_type_ids"] = torch.from_numpy(self._types(tokens, real))
        return batch

    def check_prefixes(self) -> None:
        """Makes sure that a prompt may be put before the texts.

        Raises:
            ValueError: If texts go into a chat template, where a prompt has a message of its own.
        """
        if self.chat is not None:
            raise ValueError(
                "The model puts texts into its chat template, where encode gives a prompt a message of its own; prompts "
                "in training would stand in the text's. Put what all texts share into the template, and leave out "
                "args.prompts."
            )

    def prompt_length(self, prompt: str) -> int:
        """Number of tokens that a prompt puts before a text, a leading special token included."""
        ids = self([prompt])[0]
        return len(ids) - int(len(ids) > 0 and ids[-1] in self.tokenizer.all_special_ids)

    def _filler(self, real: np.ndarray) -> int:
        if self.tokenizer.pad_token_id is None:
            if real.any() and not real.all():
                raise ValueError(
                    "Texts of different lengths need a padding token and the tokenizer has none; set one, for example "
                    "model.tokenizer.pad_token = model.tokenizer.eos_token."
                )
            return 0
        return int(self.tokenizer.pad_token_id)

    def _types(self, tokens: np.ndarray, real: np.ndarray) -> np.ndarray:
        types = np.where(real, 0, int(self.tokenizer.pad_token_type_id))
        for token, kind in self._special_types.items():
            types[real & (tokens == token)] = kind
        return types

    @cached_property
    def _special_types(self) -> dict[int, int]:
        # XLNet gives its last special token a type of its own; most tokenizers have only zeros for a single text.
        if not getattr(self.tokenizer, "is_fast", False):
            return {}
        sample = self._backend.encode("a")
        return {token: kind for token, kind in zip(sample.ids, sample.type_ids, strict=True) if kind}


@dataclass(frozen=True)
class WordEncoder(TokenEncoder):
    """A :class:`ray_st.models.tokenizer.WordTokenizer` with the longest text, in words."""

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [self.tokenizer.tokenize(text)[: self.max_seq_length] for text in texts]

    def pad(self, ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A batch of the texts' ids, padded with 0 on the right, one column wide at least.

        Args:
            ids: n arrays (t_i,), as the encoder returns them.

        Returns:
            ``input_ids`` and ``attention_mask`` (n, t), ``sentence_lengths`` (n,): int64.
        """
        batch = pad_right(ids)
        return {**batch, "sentence_lengths": batch["attention_mask"].sum(dim=1)}

    def prompt_length(self, prompt: str) -> int:
        """Number of ids that a prompt puts before a text."""
        return len(self([prompt])[0])


@dataclass(frozen=True)
class PieceEncoder(TokenEncoder):
    """A ``tokenizers.Tokenizer``, which truncates texts itself; special tokens are not added."""

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [row.ids for row in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def pad(self, ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A batch of the texts' ids, padded with 0 on the right, one column wide at least.

        Args:
            ids: n arrays (t_i,), as the encoder returns them.

        Returns:
            ``input_ids`` and ``attention_mask``: int64 (n, t).
        """
        return pad_right(ids)

    def prompt_length(self, prompt: str) -> int:
        """Number of ids that a prompt puts before a text."""
        return len(self([prompt])[0])


def pad_right(ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """``input_ids``, with 0 for padding, and ``attention_mask``: int64 (n, t) with t at least 1."""
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    real = np.arange(lengths.max(initial=1)) < lengths[:, None]
    tokens = np.zeros(real.shape, dtype=np.int64)
    if len(ids):
        tokens[real] = np.concatenate(ids)
    return {
        "input_ids": torch.from_numpy(tokens),
        "attention_mask": torch.from_numpy(real.astype(np.int64)),
    }
