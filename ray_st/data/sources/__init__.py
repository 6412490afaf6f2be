"""Sources: rows from files, queries, memory and the Hub, in validated parts of bounded size."""

from __future__ import annotations

from ray_st.data.sources.choose import Chosen, Cut, Joined
from ray_st.data.sources.errors import BadRow, Report, SourceError
from ray_st.data.sources.files import FORMATS, Files
from ray_st.data.sources.hugging import HfDataset, HfStream, load_hub, load_saved
from ray_st.data.sources.memory import Rows, Table
from ray_st.data.sources.opening import as_source
from ray_st.data.sources.part import ROW, Part
from ray_st.data.sources.source import Limits, Source
from ray_st.data.sources.splits import Bound, Bounds, parse_split
from ray_st.data.sources.sql import Sql

__all__ = [
    "FORMATS",
    "ROW",
    "BadRow",
    "Bound",
    "Bounds",
    "Chosen",
    "Cut",
    "Files",
    "HfDataset",
    "HfStream",
    "Joined",
    "Limits",
    "Part",
    "Report",
    "Rows",
    "Source",
    "SourceError",
    "Sql",
    "Table",
    "as_source",
    "load_hub",
    "load_saved",
    "parse_split",
]
