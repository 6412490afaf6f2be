"""Datasets and loaders of examples for ``fit``; the trainer takes datasets and samplers.

May import ``readers``, ``data`` and ``util``. A new dataset gets a file and a row in the table below.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "DenoisingAutoEncoderDataset": "ray_st.datasets.denoising_auto_encoder",
    "NoDuplicatesDataLoader": "ray_st.datasets.no_duplicates",
    "ParallelSentencesDataset": "ray_st.datasets.parallel_sentences",
    "SentenceLabelDataset": "ray_st.datasets.sentence_label",
    "SentencesDataset": "ray_st.datasets.sentences",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
