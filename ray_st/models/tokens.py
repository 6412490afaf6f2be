"""From texts to token ids, and from token ids to a padded batch: light, picklable, usable without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ray_st.models.chat import ChatTemplate, common_end
from ray_st.models.tokenizer.word import WhitespaceTokenizer
from ray_st.util.states import UnknownState

_CHUNK = 8192  # texts per call of the tokenizer: its results are large objects, token ids are not


def own_backend(backend: Tokenizer) -> Tokenizer:
    """A tokenizer that shares another's vocabulary but has its own truncation and padding, both off.

    A tokenizer of transformers stores the settings of its last call in its backend: they would apply to
    everyone who shares the backend, and tokenizers cannot be changed while another thread uses them.
    """
    own = Tokenizer(backend.model)
    own.normalizer, own.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    own.post_processor, own.decoder = backend.post_processor, backend.decoder
    added = backend.get_added_tokens_decoder()
    own.add_tokens([token for _, token in sorted(added.items())])
    if own.get_added_tokens_decoder() != added:  # their ids have gaps, which add_tokens cannot reproduce
        own = deepcopy(backend)
        own.no_truncation()
        own.no_padding()
    own.encode_special_tokens = backend.encode_special_tokens
    return own


def _parts_of(backend: Tokenizer) -> dict[str, Any]:
    """A tokenizer's parts and vocabulary, as JSON values."""
    try:
        parts: dict[str, Any] = json.loads(backend.to_str())
    except Exception as error:  # the library has no other kind for a part written in Python
        raise UnknownState(f"a part of the tokenizer cannot be written down ({error})") from error
    if parts["model"].get("dropout"):
        raise UnknownState("the tokenizer draws tokens at random (dropout)")
    return parts


@dataclass(frozen=True)
class TokenEncoder:
    """A tokenizer with the settings that determine a text's ids.

    ``encoder.pad(encoder(texts))`` is what the model's ``tokenize(texts)`` returns, whatever settings other
    users of the tokenizer choose meanwhile.

    Args:
        tokenizer: A tokenizer of transformers.
        max_seq_length: Longest sequence in tokens, special ones included; None does not truncate.
        do_lower_case: Whether to lowercase texts first.
        chat: The template that texts are put into; None leaves them unchanged.
        special: Whether special tokens are added.
    """

    tokenizer: Any
    max_seq_length: int | None = None
    do_lower_case: bool = False
    chat: ChatTemplate | None = None
    special: bool = True

    def __getstate__(self) -> dict[str, Any]:
        """The fields without cached values, which are quickly computed again."""
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
        if not isinstance(self.tokenizer, PreTrainedTokenizerFast):
            return self.tokenizer(
                texts,
                truncation=self.max_seq_length is not None,
                max_length=self.max_seq_length,
                padding=False,
                add_special_tokens=self._adds_special,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        # What the tokenizer's own call does, but without a dict for each text (2.4 times faster).
        rows = self._backend.encode_batch_fast(texts, add_special_tokens=self._adds_special)
        return [row.ids for row in rows]

    @property
    def _adds_special(self) -> bool:
        return self.special and self.chat is None  # a chat template has its own

    @cached_property
    def _backend(self) -> Tokenizer:
        own = own_backend(self.tokenizer.backend_tokenizer)
        own.encode_special_tokens = self.tokenizer.split_special_tokens
        if self.max_seq_length is not None:
            own.enable_truncation(self.max_seq_length, direction=self.tokenizer.truncation_side)
        return own

    def _ended(self, ids: np.ndarray) -> np.ndarray:
        """A text's ids, with the end of the chat template if truncation may have removed it."""
        if self.chat is not None and len(ids) == self.max_seq_length and len(end := self._end[-len(ids) :]):
            ids[-len(end) :] = end
        return ids

    @cached_property
    def _end(self) -> np.ndarray:
        """The ids that the chat template puts after every text."""
        if self.chat is None or not self.chat.keeps_end:
            return np.empty(0, dtype=np.int32)
        whole = replace(self, max_seq_length=None)
        rows = whole._ids(self.chat.renderings(self.tokenizer))
        return np.array(common_end(*rows), dtype=np.int32)

    def pad(self, ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A batch of the texts' ids, padded to the longest on the tokenizer's side; at least one column wide.

        Args:
            ids: n arrays (t_i,), as the encoder returns them.

        Returns:
            ``input_ids``, ``attention_mask`` and, for tokenizers that have them, ``token_type_ids``: int64
                (n, t).

        Raises:
            ValueError: If lengths differ and the tokenizer has no padding token.
        """
        batch = padded(ids, self.tokenizer.pad_token_id or 0, left=self.tokenizer.padding_side == "left")
        real = batch["attention_mask"].numpy().astype(bool)
        check_padding(self.tokenizer, real)
        if "token_type_ids" in self.tokenizer.model_input_names:
            batch["token_type_ids"] = torch.from_numpy(self._types(batch["input_ids"].numpy(), real))
        return batch

    def check_prefixes(self) -> None:
        """Checks that a prompt may be put before the texts.

        Raises:
            ValueError: If texts go into a chat template, where a prompt has a message of its own.
        """
        if self.chat is not None:
            raise ValueError(
                "The model puts texts into its chat template, where encode gives a prompt a message of its "
                "own; prompts in training would be part of the text's. Put what all texts share into the "
                "template, and leave out args.prompts."
            )

    def prompt_length(self, prompt: str) -> int:
        """Number of tokens that a prompt puts before a text, including a leading special token."""
        ids = self([prompt])[0]
        return len(ids) - int(len(ids) > 0 and ids[-1] in self.tokenizer.all_special_ids)

    def state(self) -> str:
        """All that determines texts' ids, as text.

        Raises:
            UnknownState: If not all of it can be read: a tokenizer or a part of it is written in Python, a
                chat template says what day it is, tokens are drawn at random, or a class is not ray_st's.
        """
        return json.dumps({**self._settings(), "tokenizer": self._tokenizer_state()}, sort_keys=True)

    def _settings(self) -> dict[str, Any]:
        kind = type(self)
        if kind.__module__ != __name__:  # a subclass may do anything
            raise UnknownState(f"{kind.__qualname__} does not tell what its results depend on")
        settings = {
            "kind": kind.__name__,
            "max_seq_length": self.max_seq_length,
            "do_lower_case": self.do_lower_case,
            "chat": repr(self.chat),
            "versions": [tokenizers.__version__, transformers.__version__],
        }
        return settings if self.special else {**settings, "special": False}

    def _tokenizer_state(self) -> Any:
        tokenizer = self.tokenizer
        kind = type(tokenizer)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UnknownState(f"{kind.__name__} is written in Python")
        parts = _parts_of(tokenizer.backend_tokenizer)
        state = {
            # Those of the tokenizer's last call; an encoder has its own.
            "parts": {name: part for name, part in parts.items() if name not in ("truncation", "padding")},
            "split_special_tokens": tokenizer.split_special_tokens,
            "truncation_side": tokenizer.truncation_side,
        }
        if self.chat is None:
            return state
        if kind.__module__.split(".")[0] != "transformers" or "strftime" in self.chat.text:
            raise UnknownState(f"the chat template of {kind.__name__} may depend on more than texts")
        return {**state, "special": repr(sorted(tokenizer.special_tokens_map.items()))}

    def _types(self, tokens: np.ndarray, real: np.ndarray) -> np.ndarray:
        types = np.where(real, 0, int(self.tokenizer.pad_token_type_id))
        for token, kind in self._special_types.items():
            types[real & (tokens == token)] = kind
        return types

    @cached_property
    def _special_types(self) -> dict[int, int]:
        # XLNet's last special token has a type of its own; most tokenizers have only zeros for a single text.
        if not isinstance(self.tokenizer, PreTrainedTokenizerFast):
            return {}
        sample = self._backend.encode("a")
        return {token: kind for token, kind in zip(sample.ids, sample.type_ids, strict=True) if kind}


@dataclass(frozen=True)
class PieceEncoder(TokenEncoder):
    """A ``tokenizers.Tokenizer``, which truncates texts itself; special tokens are not added."""

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [row.ids for row in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def pad(self, ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A batch of the texts' ids, padded with 0 on the right; at least one column wide.

        Args:
            ids: n arrays (t_i,), as the encoder returns them.

        Returns:
            ``input_ids`` and ``attention_mask``: int64 (n, t).
        """
        return padded(ids)

    def prompt_length(self, prompt: str) -> int:
        """Number of ids that a prompt puts before a text."""
        return len(self([prompt])[0])

    def _tokenizer_state(self) -> Any:
        return _parts_of(self.tokenizer)


@dataclass(frozen=True)
class WordEncoder(PieceEncoder):
    """A :class:`ray_st.models.tokenizer.WordTokenizer`; ``max_seq_length`` is in words."""

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [self.tokenizer.tokenize(text)[: self.max_seq_length] for text in texts]

    def pad(self, ids: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """The batch of :class:`PieceEncoder`, with ``sentence_lengths`` (n,), the number of ids per text."""
        batch = padded(ids)
        return {**batch, "sentence_lengths": batch["attention_mask"].sum(dim=1)}

    def _tokenizer_state(self) -> Any:
        if type(self.tokenizer) is not WhitespaceTokenizer:  # others split words with another library
            raise UnknownState(
                f"{type(self.tokenizer).__qualname__} does not tell what its results depend on"
            )
        return self.tokenizer.settings()


def padded(ids: Sequence[np.ndarray], pad_id: int = 0, left: bool = False) -> dict[str, Tensor]:
    """``input_ids``, padded on the right or left, and ``attention_mask``: int64 (n, t)."""
    real = token_places(np.array([len(row) for row in ids], dtype=np.int64), left)
    tokens = np.full(real.shape, pad_id, dtype=np.int64)
    if len(ids):
        tokens[real] = np.concatenate(ids)
    return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(real.astype(np.int64))}


def token_places(lengths: NDArray[np.int64], left: bool) -> NDArray[np.bool_]:
    """Which places of a padded batch hold tokens (n, t), for texts of these lengths (n,)."""
    columns = np.arange(lengths.clip(min=1).max(initial=0))  # texts may have no token at all
    return columns >= (len(columns) - lengths)[:, None] if left else columns < lengths[:, None]


def check_padding(tokenizer: PreTrainedTokenizerBase, real: NDArray[np.bool_]) -> None:
    """Raises if a batch has padding and the tokenizer no token for it.

    Args:
        tokenizer: The tokenizer.
        real: Which places of the batch hold tokens (n, t).

    Raises:
        ValueError: Says how to set such a token.
    """
    if tokenizer.pad_token_id is None and real.any() and not real.all():
        raise ValueError(
            "Texts of different lengths need a padding token and the tokenizer has none; set one, for "
            "example model.tokenizer.pad_token = model.tokenizer.eos_token."
        )
