"""Examples as objects, and readers that create them from files, for ``fit``; the trainer takes datasets.

Functions named ``read_…`` make such datasets of the files of other trainers.

May import ``util`` only. A new reader goes next to those of its kind of file, with a row in the table below.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_DELIMITED = "ray_st.readers.delimited_files"
_RANKING = "ray_st.readers.ranking_files"

_NAMES = {
    "InputExample": "ray_st.readers.input_example",
    "LabelSentenceReader": _DELIMITED,
    "NLIDataReader": "ray_st.readers.line_files",
    "PairedFilesReader": "ray_st.readers.line_files",
    "ReaderError": "ray_st.readers.text_rows",
    "STSBenchmarkDataReader": _DELIMITED,
    "STSDataReader": _DELIMITED,
    "TripletReader": _DELIMITED,
    "read_beir": _RANKING,
    "read_flag_embedding": _RANKING,
    "read_tevatron": _RANKING,
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
