"""JSON Lines whose fields are checked: errors name file, line and field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_st.readers.text_rows import ReaderError, read_lines


@dataclass(frozen=True)
class JsonObject:
    """An object of a file.

    Args:
        place: File and line, and for inner objects the field, for errors.
        fields: Its fields by name.
    """

    place: str
    fields: Mapping[str, Any]

    def has(self, field: str) -> bool:
        """Whether a field is there and not null."""
        return self.fields.get(field) is not None

    def text(self, field: str) -> str:
        """A field that must be a text, not empty.

        Raises:
            ReaderError: If it is missing or anything else.
        """
        value = self._value(field)
        if not isinstance(value, str) or not value.strip():
            raise self._odd(field, "a text", value)
        return value

    def key(self, field: str) -> str:
        """A field that must be an id, a text or a whole number; as a text.

        Raises:
            ReaderError: If it is missing or anything else.
        """
        value = self._value(field)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self._odd(field, "an id", value)
        return str(value)

    def texts(self, field: str) -> list[str]:
        """A field that must be a list of texts, none of them empty.

        Raises:
            ReaderError: If it is missing or anything else, naming the place in the list.
        """
        values = self._list(field)
        for place, value in enumerate(values):
            if not isinstance(value, str) or not value.strip():
                raise self._odd(f"{field}[{place}]", "a text", value)
        return values

    def numbers(self, field: str, count: int, of: str) -> list[float]:
        """A field that must be a list of finite numbers, one for each entry of another field.

        Args:
            field: The field.
            count: How many there must be.
            of: Name of the other field.

        Raises:
            ReaderError: If it is missing or anything else, naming the place in the list.
        """
        values = self._list(field)
        if len(values) != count:
            raise ReaderError(
                f"{self.place}, field {field!r}: expected {count} numbers, one for each entry of {of!r}; "
                f"found {len(values)}."
            )
        for place, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise self._odd(f"{field}[{place}]", "a finite number", value)
        return [float(value) for value in values]

    def objects(self, field: str) -> list[JsonObject]:
        """A field that must be a list of objects.

        Raises:
            ReaderError: If it is missing or anything else, naming the place in the list.
        """
        found = []
        for place, value in enumerate(self._list(field)):
            if not isinstance(value, dict):
                raise self._odd(f"{field}[{place}]", "an object", value)
            found.append(JsonObject(f"{self.place}, field '{field}[{place}]'", value))
        return found

    def _list(self, field: str) -> list[Any]:
        value = self._value(field)
        if not isinstance(value, list):
            raise self._odd(field, "a list", value)
        return value

    def _value(self, field: str) -> Any:
        if field not in self.fields:
            raise ReaderError(f"{self.place}: no field {field!r}; found {sorted(self.fields)}.")
        return self.fields[field]

    def _odd(self, field: str, wanted: str, value: object) -> ReaderError:
        return ReaderError(f"{self.place}, field {field!r}: expected {wanted}, found {value!r:.80}.")


def read_objects(path: Path) -> Iterator[JsonObject]:
    """The objects of a JSON Lines file, plain or compressed by gzip; blank lines are skipped.

    Args:
        path: The file.

    Raises:
        ReaderError: If it cannot be read, or a line is no JSON object.
    """
    for row in read_lines(path):
        (line,) = row.fields
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ReaderError(f"{row.place}: not JSON ({error}).") from error
        if not isinstance(value, dict):
            raise ReaderError(f"{row.place}: expected a JSON object, found {line.strip():.60}")
        yield JsonObject(row.place, value)
