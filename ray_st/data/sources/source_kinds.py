"""Column types: plain types, types on which files agree, and conversion of values to a type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ray_st.data.column_spec import LABEL_COLUMNS
from ray_st.data.sources.errors import SourceError
from ray_st.util.arrow import is_list, is_number, is_text
from ray_st.util.names import did_you_mean
from ray_st.util.value_checks import is_whole

Converted = tuple[pa.Array, list[int]]
"""Values as a column, with null for each that cannot be converted, and the positions of those."""

T = TypeVar("T")

_UNCONVERTIBLE = (ValueError, TypeError, OverflowError, pa.ArrowNotImplementedError)
"""What pyarrow raises for values that do not fit a type."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_LONGEST, _ROUNDED = 24, 16
"""No 64-bit integer has more digits; a float64 represents all integers of fewer digits exactly."""

_DECIMAL_DIGITS = 38
"""The maximum number of digits in a decimal128."""

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(nan|NaN|inf|Inf)")
_TRUTH = re.compile(r"true|True|TRUE|false|False|FALSE")


def plain(kind: pa.DataType) -> pa.DataType:
    """The type that a column is read as: texts are always ``string``, however a file stores them."""
    if pat.is_dictionary(kind):
        return plain(kind.value_type)
    return pa.string() if is_text(kind) else kind


def named_type(value: str | pa.DataType, column: str) -> pa.DataType:
    """An Arrow type by its name, such as ``string``, ``int64`` or ``float64``.

    Raises:
        SourceError: If no type has that name.
    """
    if isinstance(value, pa.DataType):
        return value
    try:
        return pa.type_for_alias(value)
    except ValueError as error:
        known = ("string", "int64", "float32", "float64", "bool", "binary")
        raise SourceError(
            f"types: column {column!r}: unknown type {value!r}; {did_you_mean(value, known)}"
        ) from error


def merged(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both types without changing their meaning, or None."""
    if one == other or pat.is_null(other):
        return one
    if pat.is_null(one):
        return other
    if pat.is_integer(one) and pat.is_integer(other):
        return pa.int64() if pat.is_signed_integer(one) or pat.is_signed_integer(other) else pa.uint64()
    if is_number(one) and is_number(other):
        return pa.float64()
    if is_list(one) and is_list(other):
        inner = merged(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    return None


def agreed(schemas: Iterable[tuple[str, Mapping[str, pa.DataType]]]) -> dict[str, pa.DataType]:
    """The columns of several files, which must all have the same ones.

    Args:
        schemas: Name and columns of each file, in order.

    Raises:
        SourceError: At the first file that differs, naming file, column and types.
    """
    types: dict[str, pa.DataType] = {}
    origin: dict[str, str] = {}
    leader = ""
    for name, columns in schemas:
        if not leader:
            leader, types, origin = name, dict(columns), dict.fromkeys(columns, name)
        _check_names(name, columns, leader, types)
        for column, known in types.items():
            found = columns[column]
            common = merged(known, found)
            if common is None:
                raise SourceError(
                    f"{name}: column {column!r} is of type {found}; expected {known}, as in "
                    f"{origin[column]}. Convert the file, name the type in `types`, or leave the column out "
                    "with `columns`."
                )
            if pat.is_null(known) and common != known:
                origin[column] = name
            types[column] = common
    return types


def _check_names(name: str, found: Mapping[str, Any], leader: str, expected: Mapping[str, Any]) -> None:
    missing = next((column for column in expected if column not in found), None)
    if missing is not None:
        raise SourceError(
            f"{name}: column {missing!r} is missing; found {list(found)}, expected {list(expected)} as in "
            f"{leader}."
        )
    extra = next((column for column in found if column not in expected), None)
    if extra is not None:
        raise SourceError(
            f"{name}: column {extra!r} is not in {leader}, which has {list(expected)}; name those to read in "
            "`columns`."
        )


def first_duplicate(names: Iterable[str]) -> str | None:
    """The first name that occurs twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def pick(
    columns: Mapping[str, pa.DataType], wanted: Sequence[str] | None, name: str
) -> dict[str, pa.DataType]:
    """The wanted columns, in their order.

    Raises:
        SourceError: If a column does not exist.
    """
    for column in wanted or ():
        if column not in columns:
            raise SourceError(f"{name}: no column {column!r}; {did_you_mean(column, columns)}")
    return {column: columns[column] for column in (columns if wanted is None else wanted)}


def type_of_words(column: str, words: Sequence[str | None]) -> pa.DataType:
    """The type of a text file's column, inferred from its first fields; None is an empty field.

    A column named as a label is numeric as soon as most of its fields are, so that a stray word in it is
    reported instead of turning the whole column into text.
    """
    filled = [word for word in words if word is not None]
    if not filled:
        return pa.null()
    is_label = column in LABEL_COLUMNS
    for pattern, kind in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64()), (_TRUTH, pa.bool_())):
        fitting = [word for word in filled if pattern.fullmatch(word)]
        if len(fitting) == len(filled) or (is_label and len(fitting) * 2 > len(filled)):
            return _wide_enough(fitting, is_label) if pat.is_integer(kind) else kind
    return pa.string()


def _wide_enough(digits: Sequence[str], is_label: bool) -> pa.DataType:
    """A type for integers with these digits.

    Integers that no type can hold become text; in a label column they are rejected one by one.
    """
    return _holding(list(map(_whole, digits))) or (pa.int64() if is_label else pa.string())


def _whole(digits: str) -> int:
    # Python cannot parse integers of more than 4300 digits; anything over 20 digits is too large anyway.
    return int(digits) if len(digits) <= _LONGEST else 10**_LONGEST


def _holding(numbers: Sequence[int]) -> pa.DataType | None:
    """The integer type that holds the numbers: int64 if possible, else uint64; None if neither can."""
    least, most = min(numbers), max(numbers)
    if least >= -(1 << 63) and most < 1 << 63:
        return pa.int64()
    return pa.uint64() if least >= 0 and most < 1 << 64 else None


def type_of_values(values: Sequence[Any]) -> pa.DataType:
    """The type of a column, inferred from its first Python values; outliers among them are ignored."""
    try:
        kind = plain(pa.array(values, from_pandas=True).type)
        # Later decimals may have more digits than the first ones.
        return pa.decimal128(_DECIMAL_DIGITS, kind.scale) if pat.is_decimal128(kind) else kind
    except (ValueError, TypeError, OverflowError):
        numbers = [value for value in values if is_whole(value)]
        if numbers and len(numbers) == sum(value is not None for value in values):
            return _holding(numbers) or pa.int64()
        kinds = [_type_of_value(value) for value in values if value is not None]
        known = next((kind for kind in kinds if kind is not None), pa.null())
        for kind in kinds:
            known = (merged(known, kind) if kind is not None else None) or known
        return known


def from_words(words: Sequence[str | None], kind: pa.DataType) -> Converted:
    """Fields of a text file as a column of a given type."""
    if kind == pa.string():
        return pa.array(words, kind), []
    if not pat.is_floating(kind):
        return _converted(words, lambda some: pa.array(some, pa.string()).cast(kind))
    rounded = {place for place, word in enumerate(words) if word is not None and _is_rounded(word)}
    exact = [None if place in rounded else word for place, word in enumerate(words)]
    array, odd = _converted(exact, lambda some: pa.array(some, pa.string()).cast(kind))
    return array, sorted({*odd, *rounded})


def _is_rounded(word: str) -> bool:
    """Whether a field is an integer that float64 cannot represent; rounding of fractions is not reported."""
    if len(word) < _ROUNDED or not _INTEGER.fullmatch(word):
        return False
    return len(word) > _LONGEST or int(float(word)) != int(word)


def from_values(values: Sequence[Any], kind: pa.DataType) -> Converted:
    """Python values as a column of a given type."""
    if pat.is_floating(kind):
        values = [float(value) if isinstance(value, Decimal) else value for value in values]
    return _converted(values, lambda some: pa.array(some, kind, from_pandas=True))


def cast(array: pa.Array, kind: pa.DataType) -> Converted:
    """Casts a column to another type, without allowing any loss."""
    if array.type == kind:
        return array, []
    if pat.is_dictionary(array.type) and pat.is_string_view(array.type.value_type):
        # pyarrow cannot decode a dictionary of views.
        array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.large_string()))
    try:
        return array.cast(kind), []
    except _UNCONVERTIBLE:
        odd = [place for place in range(len(array)) if _fails(array.slice(place, 1).cast, kind)]
    keep = np.ones(len(array), dtype=bool)
    keep[odd] = False
    kept = pc.if_else(pa.array(keep), array, None).cast(kind) if keep.any() else pa.nulls(len(array), kind)
    return kept, odd


def _converted(values: Sequence[Any], convert: Callable[[Sequence[Any]], pa.Array]) -> Converted:
    try:
        return convert(values), []
    except _UNCONVERTIBLE:
        odd = [place for place, value in enumerate(values) if _fails(convert, [value])]
    gone = set(odd)
    return convert([None if place in gone else value for place, value in enumerate(values)]), odd


def _fails(convert: Callable[[T], object], value: T) -> bool:
    try:
        convert(value)
    except _UNCONVERTIBLE:
        return True
    return False


def _type_of_value(value: object) -> pa.DataType | None:
    if isinstance(value, str):
        return pa.string()  # also if Arrow cannot hold it, so that it is reported as an invalid text
    try:
        return plain(pa.array([value], from_pandas=True).type)
    except (ValueError, TypeError, OverflowError):
        return None
