"""Arguments as text for records and logs: no secrets, and only JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from transformers import TrainingArguments

from ray_st.util.secrets import without_secrets


class WrittenArguments(TrainingArguments):
    """transformers' arguments, with secrets hidden at every level instead of only at the top."""

    def to_dict(self) -> dict[str, Any]:
        """The arguments as plain values: enumerations by value, callables by name, secrets hidden.

        The constructor accepts the result, unless it contains callables.
        """
        return {name: _plain(value) for name, value in without_secrets(super().to_dict()).items()}

    def __str__(self) -> str:
        lines = "".join(f"{name}={value!r},\n" for name, value in sorted(self.to_dict().items()))
        return f"{type(self).__name__}(\n{lines})"

    __repr__ = __str__

    def __init_subclass__(cls, **options: Any) -> None:
        """Keeps dataclass subclasses from generating a ``__repr__`` that shows secrets."""
        super().__init_subclass__(**options)
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, Enum):
        return value.value
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else value
