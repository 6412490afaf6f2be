"""Passes batch sources to workers through Ray Train's ``DataConfig``.

It imports little, because a Ray Train actor loads it while workers wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import DataConfig

from ray_st.runtime.data.block_source import RayBatchSource


class SourceConfig(DataConfig):
    """A ``DataConfig`` that gives every rank the same small, picklable batch sources.

    Args:
        sources: One batch source per dataset name.
    """

    def __init__(self, sources: Mapping[str, RayBatchSource]) -> None:
        super().__init__()
        self._sources = dict(sources)

    def configure(
        self, datasets: Mapping[str, object], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """The batch sources of each rank."""
        return [{name: self._sources[name] for name in datasets} for _ in range(world_size)]
