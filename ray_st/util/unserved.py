"""Names that scripts import but that do not exist here: each import fails with a one-line explanation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LATER = (
    "ray_st does not have {what} yet, so there is no {{name!r}} to import; "
    "SentenceTransformer, CrossEncoder and their trainers are there."
)
_COLLATOR = (
    "There is no {name!r} to import: a run tokenises rows ahead of training by itself. A data_collator of "
    "your own gets rows as dicts of texts."
)
_IDS = (
    "There is no {name!r} to import: put texts in place of ids before training, with datasets' map or a join."
)
_KINDS = {
    ("SparseEncoder", "sparse_encoder"): "sparse encoders",
    ("MultiVectorEncoder", "multi_vector_encoder"): "multi-vector encoders",
}

_MESSAGES = {
    "CrossEncoderDataCollator": _COLLATOR,
    "SentenceTransformerDataCollator": _COLLATOR,
    "data_collator": _COLLATOR,
    "resolve_ids": _IDS,
}
for (_model, _module), _what in _KINDS.items():
    _parts = (f"{_model}{end}" for end in ("", "ModelCardData", "Trainer", "TrainingArguments"))
    _MESSAGES |= dict.fromkeys((*_parts, _module), _LATER.format(what=_what))

UNSERVED: Mapping[str, str] = {name: text.format(name=f"ray_st.{name}") for name, text in _MESSAGES.items()}
"""Error messages for imports of names that the root package lacks, including modules."""


class _UnservedModules(MetaPathFinder):
    """Last finder in the import chain: rejects known missing modules and their submodules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package == "ray_st" and name in UNSERVED:
            raise ModuleNotFoundError(UNSERVED[name], name=fullname)
        return None


def explain_unserved_modules() -> None:
    """Makes ``import ray_st.NAME`` explain in one line what is missing."""
    if not any(isinstance(finder, _UnservedModules) for finder in sys.meta_path):
        sys.meta_path.append(_UnservedModules())
