from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_st.data.sources import Source


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    """All rows of a source, each part gone through pickle as on its way to another machine."""
    import ray.cloudpickle as cloudpickle

    def read(source: Source, report: Any = None, numbered: bool = False) -> list[dict[str, Any]]:
        parts = [cloudpickle.loads(cloudpickle.dumps(part)) for part in source.parts()]
        tables = [table for part in parts for table in part.read(report, numbered)]
        expected = pa.schema(list(source.columns().items()))
        assert all(table.schema.names[: len(expected)] == expected.names for table in tables)
        assert all(table.schema.types[: len(expected)] == expected.types for table in tables)
        return [row for table in tables for row in table.to_pylist()]

    return read
