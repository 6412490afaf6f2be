"""Arguments as text, for records and logs: nothing secret, nothing that JSON cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from transformers import TrainingArguments

from ray_st.util.secrets import without_secrets


class WrittenArguments(TrainingArguments):
    """transformers' arguments, which hide tokens at the top: here secrets are hidden wherever they are."""

    def to_dict(self) -> dict[str, Any]:
        """The arguments as plain values: members of enumerations by value, callables by name, secrets hidden.

        The constructor takes them again, unless there are callables among them.
        """
        return {name: _plain(value) for name, value in without_secrets(super().to_dict()).items()}

    def __str__(self) -> str:
        lines = "".join(f"{name}={value!r},\n" for name, value in sorted(self.to_dict().items()))
        return f"{type(self).__name__}(\n{lines})"

    __repr__ = __str__

    def __init_subclass__(cls, **options: Any) -> None:
        """Keeps a subclass that is a dataclass from getting a ``__repr__`` that shows secrets."""
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
