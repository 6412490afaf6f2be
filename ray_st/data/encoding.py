"""Turns rows of text into rows of token ids, hashes and counts: a pure function of one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_st.data.column_spec import ColumnSpec
from ray_st.data.faults import described
from ray_st.data.keys import Keys, hash_texts, label_codes
from ray_st.data.label_column import checked_labels
from ray_st.data.located import FILE, READ_FAULT
from ray_st.data.routes import Route
from ray_st.data.sources import ROW
from ray_st.data.text_lists import TextLists, check_labels_of_lists, checked_lists, flattened
from ray_st.util.arrow import is_list
from ray_st.util.states import state_of

TokenIds = npt.NDArray[np.int32]
Encoder = Callable[[list[str]], Sequence[TokenIds]]

FAULT, TOKENS, TRUNCATED = "fault", "tokens", "truncated"
_BETWEEN = "\x1f"  # between the texts of a list where they are hashed as one: a control character for this


def ids_of(column: str) -> str:
    """Name of the encoded column that holds the token ids of a text column."""
    return f"ids:{column}"


def hash_of(column: str) -> str:
    """Name of the encoded column that holds the hashes of a text column."""
    return f"hash:{column}"


def lengths_of(column: str) -> str:
    """Name of the encoded column that holds the number of tokens of each text of a column of lists."""
    return f"lengths:{column}"


def text_of(column: str) -> str:
    """Name of the encoded column that keeps the texts of a text column."""
    return f"text:{column}"


@dataclass(frozen=True)
class Encoding:
    """How to encode each row.

    Args:
        columns: Text columns and label.
        encoder: Turns texts into token ids; None if the model takes no token ids.
        keep_texts: Whether encoded rows keep their texts (for a custom collator, or without an encoder).
        prompts: Prompt to prepend to each text of a column.
        routes: The columns whose texts take a route of their own through the model, with that route's
            encoder.
    """

    columns: ColumnSpec
    encoder: Encoder | None
    keep_texts: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)

    def encoder_of(self, name: str) -> Any:
        """The encoder of a column's texts; None if they stay texts."""
        return self.routes[name].encoder if name in self.routes else self.encoder

    @property
    def prompt_lengths(self) -> dict[str, int]:
        """Number of prompt tokens of each text column that has an encoder."""
        encoders = {column: self.encoder_of(column) for column in self.prompts}
        return {
            column: int(encoder.prompt_length(self.prompts[column]))
            for column, encoder in encoders.items()
            if encoder is not None
        }

    def state(self, state_of: Callable[[object], str] = state_of) -> str:
        """All that determines what rows are encoded to, as text; equal in every process.

        Args:
            state_of: Returns the state of an encoder.

        Raises:
            UnknownState: From ``state_of``.
        """
        facts = [
            self.columns,
            self.keep_texts,
            sorted(self.prompts.items()),
            sorted((name, state_of(route.encoder)) for name, route in self.routes.items()),
        ]
        return repr(facts) + state_of(self.encoder)


def encode_block(block: pa.Table, encoding: Encoding) -> pa.Table:
    """Validates and encodes the rows of one block, in order.

    The result of :func:`encode_rows`, in which faults name file and row.

    Args:
        block: The rows, with at least the columns of ``encoding.columns``.
        encoding: How to encode them.
    """
    return with_locations(encode_rows(block, encoding), block)


def encode_rows(block: pa.Table, encoding: Encoding) -> pa.Table:
    """Validates and encodes the rows of one block; depends on nothing but their values and the encoding.

    Args:
        block: The rows, with at least the columns of ``encoding.columns``.
        encoding: How to encode them.

    Returns:
        For each text column ``ids:…`` (list of int32, if there is an encoder), ``hash:…`` (uint64) and, if
        kept, ``text:…``; for a column of lists the ids of all of its texts in one list, and ``lengths:…``
        (list of int32), the number of ids of each; the label column under its own name; ``tokens`` (int64,
        summed over all texts); ``truncated``, whether a text reaches the encoder's maximum input length;
        ``fault``, which says what is wrong with a row, or null. An unusable text is encoded as an empty one.
    """
    faults = _reader_faults(block)
    columns = encoding.columns
    texts = {
        name: checked_texts(block[name], name, faults) for name in columns.texts if name not in columns.lists
    }
    lists = {name: checked_lists(block[name], name, faults) for name in columns.lists}
    made: dict[str, pa.Array] = {}
    tokens = np.zeros(len(block), dtype=np.int64)
    truncated = np.zeros(len(block), dtype=bool)
    for name in columns.texts:
        column = (
            _column_of_lists(name, lists[name], encoding)
            if name in lists
            else _column(name, texts[name], encoding)
        )
        made.update(column.arrays)
        tokens += column.tokens
        truncated |= column.truncated
    label = columns.label
    if label is not None:
        made[label] = checked_labels(block[label], label, columns.need, faults)
        for name, values in lists.items():
            check_labels_of_lists(made[label], label, values, name, faults)
    made[TOKENS] = pa.array(tokens)
    made[TRUNCATED] = pa.array(truncated)
    made[FAULT] = pa.array(faults, pa.string())
    return pa.table(made)


@dataclass(frozen=True)
class _Column:
    """An encoded text column: its arrays by name, tokens of each row, and whether a text was truncated."""

    arrays: dict[str, pa.Array]
    tokens: npt.NDArray[np.int64] | int = 0
    truncated: npt.NDArray[np.bool_] | bool = False


def _column(name: str, texts: list[str], encoding: Encoding) -> _Column:
    """A column that holds a text in each row."""
    arrays = {hash_of(name): pa.array(hash_texts(texts), pa.uint64())}
    prompted, encoder = _with_prompt(texts, name, encoding), encoding.encoder_of(name)
    lengths = None
    if encoder is not None:
        arrays[ids_of(name)], lengths = _ragged(encoder(prompted))
    if encoder is None or encoding.keep_texts:
        arrays[text_of(name)] = pa.array(prompted, pa.large_string())
    return _Column(arrays) if lengths is None else _Column(arrays, lengths, lengths >= _limit(encoder))


def _column_of_lists(name: str, lists: TextLists, encoding: Encoding) -> _Column:
    """A column that holds a list of texts in each row."""
    whole = [_BETWEEN.join(texts) for texts in lists]
    arrays = {hash_of(name): pa.array(hash_texts(whole), pa.uint64())}
    texts, counts = flattened(lists)
    prompted, encoder = _with_prompt(texts, name, encoding), encoding.encoder_of(name)
    ends = np.concatenate([[0], np.cumsum(counts)])
    offsets = pa.array(ends, pa.int64())
    if encoder is None or encoding.keep_texts:
        kept = pa.array(prompted, pa.large_string())
        arrays[text_of(name)] = pa.LargeListArray.from_arrays(offsets, kept)
    if encoder is None:
        return _Column(arrays)
    ids, lengths = _ragged(encoder(prompted))
    places = np.concatenate([[0], np.cumsum(lengths)])[ends]
    arrays[ids_of(name)] = pa.LargeListArray.from_arrays(pa.array(places, pa.int64()), ids.values)
    arrays[lengths_of(name)] = pa.LargeListArray.from_arrays(offsets, pa.array(lengths, pa.int32()))
    cut_off = np.concatenate([[0], np.cumsum(lengths >= _limit(encoder))])[ends]
    return _Column(arrays, np.diff(places), np.diff(cut_off) > 0)


def _with_prompt(texts: list[str], name: str, encoding: Encoding) -> list[str]:
    prompt = encoding.prompts.get(name)
    return [prompt + text for text in texts] if prompt else texts


def _limit(encoder: Any) -> float:
    return getattr(encoder, "max_seq_length", None) or np.inf


def _reader_faults(block: pa.Table) -> list[str | None]:
    if READ_FAULT in block.column_names:
        return list(block[READ_FAULT].to_pylist())
    return [None] * len(block)


def with_locations(encoded: pa.Table, block: pa.Table) -> pa.Table:
    """Encoded rows whose faults begin with file and row; those that the reader found name them already.

    Args:
        encoded: From :func:`encode_rows`.
        block: The rows that were encoded.
    """
    if FILE not in block.column_names or encoded[FAULT].null_count == len(encoded):
        return encoded
    known, faults = block[READ_FAULT], encoded[FAULT].to_pylist()
    for place, fault in enumerate(faults):
        file = block[FILE][place].as_py() if fault is not None and not known[place].is_valid else None
        if file is not None:
            faults[place] = f"{file}, row {block[ROW][place].as_py()}, {fault}"
    return encoded.set_column(encoded.column_names.index(FAULT), FAULT, pa.array(faults, pa.string()))


def _ragged(ids: Sequence[TokenIds]) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.concatenate(ids) if len(ids) else np.zeros(0, dtype=np.int32)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(flat, pa.int32())), lengths


def checked_texts(column: pa.ChunkedArray, name: str, faults: list[str | None]) -> list[str]:
    """The texts of a column; an unusable one becomes an empty text.

    Args:
        column: The column as read.
        name: The column's name, for fault messages.
        faults: What is wrong with each row; extended for rows whose text is unusable and that have no fault
            yet.
    """
    values = column.to_pylist()
    for row, value in enumerate(values):
        if isinstance(value, str) and value.strip():
            continue
        if faults[row] is None:
            faults[row] = f"column {name!r}: expected a text, found {described(value)}"
        values[row] = ""
    return values


def keys_of_blocks(encoded: Sequence[pa.Table], columns: ColumnSpec) -> Keys:
    """Keys of encoded blocks, in row order; blocks without rows may lack columns."""
    filled = [block for block in encoded if len(block)]
    if not filled:
        return Keys(np.zeros((0, len(columns.texts)), dtype=np.uint64), np.zeros(0, dtype=np.int64))
    table = pa.concat_tables([block.select([*map(hash_of, columns.texts), TOKENS]) for block in filled])
    hashes = np.stack([table[hash_of(name)].to_numpy() for name in columns.texts], axis=1)
    labels = None
    if columns.label is not None and not any(is_list(block[columns.label].type) for block in filled):
        # Block by block: concatenated, integers in some blocks and floats in others would all become floats.
        labels = label_codes([value for block in filled for value in block[columns.label].to_pylist()])
    return Keys(hashes, table[TOKENS].to_numpy(), labels)
