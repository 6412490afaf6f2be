"""Which route through the model the texts of each column take, resolved from the two accepted forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ray_st.data.column_spec import ColumnSpec, check_names

RouterMapping = Mapping[str, str] | Mapping[str, Mapping[str, str]]
"""Tasks by column, or by dataset name and column: ``args.router_mapping``."""


class TextEncoder(Protocol):
    """Turns texts into token ids, and token ids into a padded batch."""

    def __call__(self, texts: Sequence[str]) -> Sequence[npt.NDArray[np.int32]]:
        """Token ids of each text."""

    def pad(self, ids: Sequence[npt.NDArray[np.int32]]) -> Mapping[str, Any]:
        """A padded batch of token ids."""

    def check_prefixes(self) -> None:
        """Verifies that a prompt may be prepended to the texts."""

    def prompt_length(self, prompt: str) -> int:
        """Number of tokens that a prompt adds in front of a text."""


@dataclass(frozen=True)
class Route:
    """How the texts of a column pass through a model that has several sequences of modules.

    Args:
        task: What the texts are, such as "query"; None for the model's default.
        encoder: The encoder of this route; None if it takes no token ids.
    """

    task: str | None
    encoder: TextEncoder | None

    @property
    def features(self) -> dict[str, str]:
        """The features by which the model selects the route."""
        return {"modality": "text", **({} if self.task is None else {"task": self.task})}


def is_by_dataset(mapping: RouterMapping) -> bool:
    """Whether a mapping gives tasks by dataset, rather than the same tasks for all datasets."""
    return any(isinstance(value, Mapping) for value in mapping.values())


def tasks_of(mapping: RouterMapping | None, columns: ColumnSpec, dataset: str) -> dict[str, str]:
    """The task of each text column that has one.

    Args:
        mapping: ``args.router_mapping``.
        columns: The dataset's columns.
        dataset: Its name; a single dataset is named "".
    """
    if not mapping:
        return {}
    mine: Any = mapping.get(dataset, {}) if is_by_dataset(mapping) else mapping
    return {column: mine[column] for column in columns.texts if column in mine}


def check_mapping_names(mapping: RouterMapping, datasets: Mapping[str, Sequence[str]], single: bool) -> None:
    """Rejects names in a mapping that match nothing: their columns would silently take the default route.

    Args:
        mapping: ``args.router_mapping``.
        datasets: Text columns of each dataset, by name.
        single: Whether there is a single, unnamed dataset.

    Raises:
        ValueError: Naming what is unknown, and what exists.
    """
    if not is_by_dataset(mapping):
        known = list(dict.fromkeys(column for columns in datasets.values() for column in columns))
        check_names("router_mapping", set(mapping) - set(known), "text columns", known)
        return
    if single:
        raise ValueError(
            f"args.router_mapping maps {list(mapping)} to tasks by column, as for several named datasets, "
            "but there is a single dataset, which has no name. Give the tasks by column: "
            f"{list(*datasets.values())}."
        )
    check_names("router_mapping", set(mapping) - set(datasets), "datasets", list(datasets))
    for dataset, tasks in mapping.items():
        check_names(
            "router_mapping",
            set(tasks) - set(datasets[dataset]),
            f"text columns of {dataset!r}",
            datasets[dataset],
        )
