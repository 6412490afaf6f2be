"""A trial whose hyperparameters are drawn: what ``model_init`` and loss initialisers are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ray_st.util.names import did_you_mean


class DrawnTrial(Mapping[str, Any]):
    """The hyperparameters of a trial, read like a dict or like an Optuna trial.

    ``trial["pooling"]``, ``trial.get("pooling")``, ``trial.params`` and
    ``trial.suggest_categorical("pooling", ...)`` all return the value that was drawn; nothing is drawn here.
    The names that are read are remembered, so that a search can reject names that nothing reads.

    Args:
        number: The trial's number in its search, from 0.
        values: Its hyperparameters by name.

    Attributes:
        read: Names that were read.
    """

    def __init__(self, number: int, values: Mapping[str, Any]) -> None:
        self.number, self._values = number, dict(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def params(self) -> dict[str, Any]:
        """All hyperparameters by name."""
        self.read.update(self._values)
        return dict(self._values)

    def _drawn(self, name: str, *bounds: Any, **options: Any) -> Any:
        """The value that was drawn for a name; bounds and options are ignored, as they belong to the space.

        Raises:
            ValueError: If the space has no such name.
        """
        if name not in self._values:
            raise ValueError(
                f"trial {self.number} has no parameter {name!r}; {did_you_mean(name, self._values)} "
                "Parameters are drawn in hp_space, before the model is made: name it there."
            )
        return self[name]

    suggest_float = suggest_int = suggest_categorical = _drawn
