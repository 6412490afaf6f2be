"""From rows of text to rows of token ids, hashes and counts: a pure function of one block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_st.data.columns import ColumnSpec
from ray_st.data.keys import Keys, hash_texts, label_codes
from ray_st.data.located import FILE, READ_FAULT
from ray_st.data.sources import ROW

TokenIds = npt.NDArray[np.int32]
Encoder = Callable[[list[str]], Sequence[TokenIds]]

FAULT, TOKENS, TRUNCATED = "fault", "tokens", "truncated"
_SHOWN = 60


def ids_of(column: str) -> str:
    """Name of the encoded column with the token ids of a text column."""
    return f"ids:{column}"


def hash_of(column: str) -> str:
    """Name of the encoded column with the hashes of a text column."""
    return f"hash:{column}"


def text_of(column: str) -> str:
    """Name of the encoded column that keeps the texts of a text column."""
    return f"text:{column}"


class RowError(ValueError):
    """A row of a dataset cannot be used."""


@dataclass(frozen=True)
class Encoding:
    """What to make of each row.

    Args:
        columns: Text columns and label.
        encoder: Turns texts into token ids, or None where the model takes no token ids.
        keep_texts: Whether the encoded rows keep their texts (for a custom collator, or without an encoder).
        prompts: Prompt that is put before each text of a column.
    """

    columns: ColumnSpec
    encoder: Encoder | None
    keep_texts: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)


def encode_block(block: pa.Table, encoding: Encoding) -> pa.Table:
    """Checks and encodes the rows of one block, in order.

    Args:
        block: The rows, with at least the columns of ``encoding.columns``.
        encoding: What to make of them.

    Returns:
        For each text column ``ids:…`` (list of int32, if there is an encoder), ``hash:…`` (uint64) and, if they are
        kept, ``text:…``; the label column under its own name; ``tokens`` (int64, over all texts); ``truncated``,
        whether a text reaches the encoder's longest input; ``fault``, which says what is wrong with a row, or null. An
        unusable text counts as an empty one.
    """
    faults = _found_by_reader(block)
    texts = {name: _checked_texts(block[name], name, faults) for name in encoding.columns.texts}
    made: dict[str, pa.Array] = {}
    tokens = np.zeros(len(block), dtype=np.int64)
    truncated = np.zeros(len(block), dtype=bool)
    longest = getattr(encoding.encoder, "max_seq_length", None)
    for name, values in texts.items():
        made[hash_of(name)] = pa.array(hash_texts(values), pa.uint64())
        prompted = (
            [encoding.prompts[name] + text for text in values] if encoding.prompts.get(name) else values
        )
        if encoding.encoder is not None:
            made[ids_of(name)], lengths = _ragged(encoding.encoder(prompted))
            tokens += lengths
            truncated |= lengths >= (longest or np.inf)
        if encoding.keep_texts or encoding.encoder is None:
            made[text_of(name)] = pa.array(prompted, pa.large_string())
    label = encoding.columns.label
    if label is not None:
        made[label] = _checked_labels(block[label], label, faults)
        for row, fault in _unmet(encoding.columns, made[label]):
            faults[row] = faults[row] or f"column {label!r}: {fault}"
    _say_where(block, faults)
    made[TOKENS] = pa.array(tokens)
    made[TRUNCATED] = pa.array(truncated)
    made[FAULT] = pa.array(faults, pa.string())
    return pa.table(made)


def _found_by_reader(block: pa.Table) -> list[str | None]:
    if READ_FAULT in block.column_names:
        return list(block[READ_FAULT].to_pylist())
    return [None] * len(block)


def _say_where(block: pa.Table, faults: list[str | None]) -> None:
    """Puts file and row before what the encoder found; the reader has said them already."""
    if FILE not in block.column_names:
        return
    known = block[READ_FAULT]
    for place, fault in enumerate(faults):
        file = block[FILE][place].as_py() if fault is not None and not known[place].is_valid else None
        if file is not None:
            faults[place] = f"{file}, row {block[ROW][place].as_py()}, {fault}"


def _ragged(ids: Sequence[TokenIds]) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.concatenate(ids) if len(ids) else np.zeros(0, dtype=np.int32)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(flat, pa.int32())), lengths


def _checked_texts(column: pa.ChunkedArray, name: str, faults: list[str | None]) -> list[str]:
    """The texts of a column; where one is unusable its row gets a fault and an empty text."""
    values = column.to_pylist()
    for row, value in enumerate(values):
        if isinstance(value, str) and value.strip():
            continue
        if faults[row] is None:
            faults[row] = f"column {name!r}: expected a text, found {_describe(value)}"
        values[row] = ""
    return values


def _checked_labels(column: pa.ChunkedArray, name: str, faults: list[str | None]) -> pa.Array:
    labels = column.combine_chunks()
    if pa.types.is_boolean(labels.type):
        labels = pc.cast(labels, pa.int64())
    numbers = pc.list_flatten(labels) if _is_list(labels.type) else labels
    if not any(test(numbers.type) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)):
        _mark(range(len(labels)), labels, name, faults)
        return pa.nulls(len(labels), pa.float64())
    usable = _usable(labels)
    if numbers is not labels:
        usable[pc.list_parent_indices(labels).to_numpy()[~_usable(numbers)]] = False
    _mark(np.flatnonzero(~usable), labels, name, faults)
    return labels


def _unmet(columns: ColumnSpec, labels: pa.Array) -> Iterator[tuple[int, str]]:
    return iter(()) if columns.need is None else columns.need.unmet(labels)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _usable(labels: pa.Array) -> npt.NDArray[np.bool_]:
    """Which labels are there and, if they are numbers, finite."""
    valid = pc.is_valid(labels)
    if pa.types.is_floating(labels.type):
        valid = pc.and_(valid, pc.fill_null(pc.is_finite(pc.cast(labels, pa.float64())), False))
    return np.array(valid.to_numpy(zero_copy_only=False), dtype=bool)


def _mark(rows: Any, labels: pa.Array, name: str, faults: list[str | None]) -> None:
    for row in rows:
        if faults[row] is None:
            found = _describe(labels[row].as_py())
            faults[row] = f"column {name!r}: expected a finite number as label, found {found}"


def _describe(value: Any) -> str:
    if isinstance(value, str) and not value.strip():
        return f"an empty text ({value!r})"
    shown = repr(value)
    return f"{shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'} ({type(value).__name__})"


def check_faults(faults: Sequence[tuple[int, str]], rows: int, dataset: str) -> None:
    """Raises if rows cannot be used.

    Args:
        faults: The number of each unusable row, ascending, and what is wrong with it.
        rows: Number of all rows.
        dataset: What to call the dataset in the error.

    Raises:
        RowError: Naming the first unusable row, its column and value, and how many there are.
    """
    if faults:
        row, reason = faults[0]
        raise RowError(
            f"{dataset}: row {row}, {reason}. {len(faults)} of {rows} rows cannot be used; correct or remove them, or "
            'set bad_rows="skip" in the arguments to leave them out.'
        )


def keys_of_blocks(encoded: Sequence[pa.Table], columns: ColumnSpec) -> Keys:
    """Keys of encoded blocks, in order of rows; blocks without rows may lack columns."""
    names = [*map(hash_of, columns.texts), TOKENS, *([columns.label] if columns.label else [])]
    filled = [block.select(names) for block in encoded if len(block)]
    if not filled:
        return Keys(np.zeros((0, len(columns.texts)), dtype=np.uint64), np.zeros(0, dtype=np.int64))
    table = pa.concat_tables(filled, promote_options="permissive")
    hashes = np.stack([table[hash_of(name)].to_numpy() for name in columns.texts], axis=1)
    labels = None
    if columns.label is not None and not _is_list(table[columns.label].type):
        labels = label_codes(table[columns.label].to_pylist())
    return Keys(hashes, table[TOKENS].to_numpy(), labels)
