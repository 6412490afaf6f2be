"""Feeds through Ray Train's door for datasets. Light: an actor of Ray Train's loads it while workers wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import DataConfig

from ray_st.runtime.data.block_source import RayBatchSource


class SourceConfig(DataConfig):
    """Ray Train's door for datasets, opened for feeds: every rank gets the same small, picklable feed.

    Args:
        feeds: A feed for each dataset name.
    """

    def __init__(self, feeds: Mapping[str, RayBatchSource]) -> None:
        super().__init__()
        self._feeds = dict(feeds)

    def configure(self, datasets: Any, world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The feeds of each rank."""
        return [{name: self._feeds[name] for name in datasets} for _ in range(world_size)]
