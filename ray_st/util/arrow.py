"""Groups of Arrow types that have several variants each."""

from __future__ import annotations

from typing import TypeGuard

import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: object) -> TypeGuard[pa.ListType]:
    """Whether a type holds lists; accepts Ray's types too, some of which are not Arrow types."""
    return isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def is_number(kind: pa.DataType) -> bool:
    """Whether a type holds integers or floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
