"""Tokenizers: those that split texts into words, for word embeddings, and those of transformers on disk.

May import ``folder_files`` and ``tokens`` of the parent package. A new word tokenizer derives from
``VocabularyTokenizer`` and gets a row in the table below.
"""

from __future__ import annotations

from ray_st.util.lazy import lazy_module

_NAMES = {
    "ENGLISH_STOP_WORDS": "ray_st.models.tokenizer.stop_words",
    "PhraseTokenizer": "ray_st.models.tokenizer.phrase",
    "TransformersTokenizerWrapper": "ray_st.models.tokenizer.pretrained",
    "WhitespaceTokenizer": "ray_st.models.tokenizer.word",
    "WordTokenizer": "ray_st.models.tokenizer.word",
}

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES, module_files=True)
