"""From two texts to the token ids of a pair: each text is tokenized by itself, and pairs are joined from ids.

A query is then tokenized once for all its documents, and a text's ids can be stored and used in any pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ray_st.models.tokens import TokenEncoder, check_padding, own_backend, token_places

if TYPE_CHECKING:
    from tokenizers import Encoding
    from typing_extensions import Self

_SAMPLES = ("a", "the", "0", ".", "x y")  # texts of which every vocabulary knows one

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class PairTemplate:
    """What a tokenizer puts around and between the two texts of a pair.

    Attributes:
        special: The ids before the first text, between both, and after the second one.
        special_types: Their token types.
        text_types: The token type of each text.
    """

    special: tuple[Ids, Ids, Ids]
    special_types: tuple[Ids, Ids, Ids]
    text_types: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self | None:
        """The template of a tokenizer, found by tokenizing a pair.

        None if its pairs are not both texts in their order with fixed tokens around them, or it is written in
        Python and may do anything.

        Args:
            tokenizer: A tokenizer of transformers.
        """
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            return None
        backend = own_backend(tokenizer.backend_tokenizer)
        for sample in _SAMPLES:
            alone = backend.encode(sample, add_special_tokens=False).ids
            if alone:
                return cls._read(backend.encode(sample, sample), alone)
        return None

    @classmethod
    def _read(cls, pair: Encoding, alone: list[int]) -> Self | None:
        """The template of an encoded pair of twice the same text, whose ids alone are known."""
        order = pair.sequence_ids
        if 0 not in order or 1 not in order:
            return None
        starts = order.index(0), order.index(1)
        ends = tuple(start + len(alone) for start in starts)
        if ends[0] > starts[1]:
            return None
        ids, types = np.array(pair.ids, dtype=np.int32), np.array(pair.type_ids, dtype=np.int32)
        cuts = [slice(0, starts[0]), slice(ends[0], starts[1]), slice(ends[1], None)]
        texts = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
        before, between, after = (ids[cut] for cut in cuts)
        # What is not both texts must be special tokens, or the template does not hold for other texts.
        if not all(np.array_equal(ids[text], alone) and len({*types[text]}) == 1 for text in texts):
            return None
        if any(number is not None for cut in cuts for number in order[cut]):
            return None
        first, second = (int(types[start]) for start in starts)
        around = types[cuts[0]], types[cuts[1]], types[cuts[2]]
        return cls((before, between, after), around, (first, second))

    @property
    def tokens(self) -> int:
        """Number of special tokens."""
        return sum(map(len, self.special))


@dataclass(frozen=True)
class PairEncoder:
    """A tokenizer with the settings that determine the ids of a pair of texts.

    ``encoder.join(encoder(queries), encoder(documents))`` is what the tokenizer itself makes of the pairs
    with ``truncation="longest_first"``, with one exception: of two texts that are both as long as
    ``max_seq_length`` alone, the second gets the larger half if the tokens cannot be shared equally,
    whichever was longer before it was cut. :attr:`whole` has no such exception.

    Args:
        tokenizer: A fast tokenizer of transformers whose pairs have a :class:`PairTemplate`.
        max_seq_length: Longest pair in tokens, special ones included; None does not truncate.
        do_lower_case: Whether to lowercase texts first.
        cuts: Whether texts longer than ``max_seq_length`` are cut before they are joined.
        template: What the tokenizer puts around and between two texts; by default found from it.

    Raises:
        ValueError: If the tokenizer has no such template, or its special tokens leave no room for texts.
    """

    tokenizer: Any
    max_seq_length: int | None = None
    do_lower_case: bool = False
    cuts: bool = True
    template: PairTemplate = None  # type: ignore[assignment]  # found below

    def __post_init__(self) -> None:
        found: PairTemplate | None = self.template or PairTemplate.of(self.tokenizer)
        if found is None:
            raise ValueError(
                f"The pairs of {type(self.tokenizer).__name__} cannot be joined from the ids of their texts."
            )
        object.__setattr__(self, "template", found)
        if self.max_seq_length is not None and self.max_seq_length <= self.template.tokens:
            raise ValueError(
                f"max_length={self.max_seq_length} leaves no room for texts: a pair has "
                f"{self.template.tokens} special tokens. Set a larger max_length."
            )

    def __getstate__(self) -> dict[str, Any]:
        """The fields without cached values, which are quickly computed again."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text without special tokens, cut to ``max_seq_length``: int32 arrays (t,)."""
        return self._texts(texts)

    def join(self, queries: Sequence[Ids], documents: Sequence[Ids]) -> dict[str, Tensor]:
        """The padded batch of pairs, the longer text of each truncated first.

        Args:
            queries: n arrays (t_i,), as the encoder returns them.
            documents: n arrays (u_i,); pair i is query i with document i.

        Returns:
            ``input_ids``, ``attention_mask`` and, for tokenizers that have them, ``token_type_ids``: int64
                (n, t).

        Raises:
            ValueError: If pairs differ in length and the tokenizer has no padding token.
        """
        lengths = self._shared(queries, documents)
        pieces, types = self._pieces(queries, documents, lengths)
        real = token_places(lengths.sum(1) + self.template.tokens, self.tokenizer.padding_side == "left")
        check_padding(self.tokenizer, real)
        batch = {
            "input_ids": _placed(pieces, real, self.tokenizer.pad_token_id or 0),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
        }
        if "token_type_ids" in self.tokenizer.model_input_names:
            batch["token_type_ids"] = _placed(types, real, int(self.tokenizer.pad_token_type_id))
        return batch

    def lengths(self, queries: Sequence[Ids], documents: Sequence[Ids]) -> NDArray[np.int64]:
        """Number of tokens of each joined pair, special ones included (n,)."""
        totals: NDArray[np.int64] = self._shared(queries, documents).sum(1) + self.template.tokens
        return totals

    @property
    def whole(self) -> PairEncoder:
        """The same encoder without cutting texts before they are joined."""
        return replace(self, cuts=False)

    def check_prefixes(self) -> None:
        """Checks that a prompt may be put before the texts; it always may."""

    def prompt_length(self, prompt: str) -> int:
        """Number of tokens that a prompt puts before a text."""
        return len(self([prompt])[0])

    def state(self) -> str:
        """All that determines texts' ids, as text.

        Raises:
            UnknownState: If not all of it can be read; see :meth:`TokenEncoder.state`.
        """
        return self._texts.state()

    @cached_property
    def _texts(self) -> TokenEncoder:
        longest = self.max_seq_length if self.cuts else None
        return TokenEncoder(self.tokenizer, longest, self.do_lower_case, special=False)

    def _shared(self, queries: Sequence[Ids], documents: Sequence[Ids]) -> NDArray[np.int64]:
        """How many tokens each text of a pair keeps (n, 2)."""
        lengths = np.array(
            [(len(query), len(other)) for query, other in zip(queries, documents, strict=True)],
            dtype=np.int64,
        ).reshape(-1, 2)
        if self.max_seq_length is None:
            return lengths
        return longest_first(lengths, self.max_seq_length - self.template.tokens)

    def _pieces(
        self, queries: Sequence[Ids], documents: Sequence[Ids], lengths: NDArray[np.int64]
    ) -> tuple[Ids, Ids]:
        """All pairs' ids and token types, one pair after the other."""
        before, between, after = self.template.special
        from_left = self.tokenizer.truncation_side == "left"
        pieces: list[Ids] = [np.empty(0, dtype=np.int32)]
        for query, document, (first, second) in zip(queries, documents, lengths.tolist(), strict=True):
            if from_left:
                texts = query[len(query) - first :], document[len(document) - second :]
            else:
                texts = query[:first], document[:second]
            pieces += [before, texts[0], between, texts[1], after]
        return np.concatenate(pieces), self._types(lengths)

    def _types(self, lengths: NDArray[np.int64]) -> Ids:
        around = self.template.special_types
        first, second = self.template.text_types
        row = np.concatenate([around[0], [first], around[1], [second], around[2]])
        counts = np.ones((len(lengths), len(row)), dtype=np.int64)
        counts[:, len(around[0])] = lengths[:, 0]
        counts[:, len(around[0]) + 1 + len(around[1])] = lengths[:, 1]
        return np.repeat(np.tile(row, len(lengths)), counts.reshape(-1)).astype(np.int32)


def longest_first(lengths: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """How many tokens the two texts of each pair keep if the longer one is truncated first.

    A text that fits into half of the room is kept whole; if neither does, each gets a half, and an odd token
    goes to the longer one, or to the second one of equally long texts.

    Args:
        lengths: Tokens of the texts of each pair (n, 2).
        room: Tokens that a pair may have, at least 0.

    Returns:
        (n, 2).
    """
    swapped = lengths[:, 0] > lengths[:, 1]
    short, long = lengths.min(1), lengths.max(1)
    half = room // 2
    kept_short = np.where(short <= half, short, half)
    kept_long = room - kept_short
    fits = short + long <= room
    kept = np.stack([np.where(fits, short, kept_short), np.where(fits, long, kept_long)], axis=1)
    return np.where(swapped[:, None], kept[:, ::-1], kept)


def _placed(values: Ids, real: NDArray[np.bool_], padding: int) -> Tensor:
    """Values in the places of a padded batch that hold tokens: int64 (n, t)."""
    placed = np.full(real.shape, padding, dtype=np.int64)
    placed[real] = values
    return torch.from_numpy(placed)
