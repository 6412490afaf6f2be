"""The forms in which pairs of texts are given, and the one in which they are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ray_st.models.text_encoding import check_unicode

Pair = tuple[str, str]

_ROW = (list, tuple, np.ndarray)


def read_pairs(inputs: object) -> tuple[list[Pair], bool]:
    """Pairs of texts from any accepted form, and whether a single one was given.

    Args:
        inputs: A pair or several. A pair is a list, tuple or array of two texts, or a dict with two texts;
            its keys are ignored, their order counts. A text may be given as ``{"text": …}``.

    Raises:
        ValueError: If an entry is not a pair of texts, naming its index and what was found.
    """
    if is_single(inputs):
        return [_pair(inputs, None)], True
    if not isinstance(inputs, Iterable):
        raise ValueError(f"Pairs of texts are expected; got {type(inputs).__name__}: {inputs!r:.80}.")
    return [_pair(row, place) for place, row in enumerate(inputs)], False


def is_single(inputs: object) -> bool:
    """Whether one pair is given, as opposed to a list of pairs."""
    if isinstance(inputs, Mapping | str):
        return True
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 1 and len(inputs) > 0 and _is_text(inputs[0])
    return isinstance(inputs, list | tuple) and len(inputs) > 0 and _is_text(inputs[0])


def _is_text(value: object) -> bool:
    """Whether a value is a text rather than a pair."""
    return isinstance(value, str) or (isinstance(value, Mapping) and set(value) == {"text"})


def _pair(row: Any, place: int | None) -> Pair:
    where = "" if place is None else f"entry {place} is "
    parts = list(row.values()) if isinstance(row, Mapping) else list(row) if isinstance(row, _ROW) else [row]
    texts = [part["text"] if isinstance(part, Mapping) and _is_text(part) else part for part in parts]
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        found = f"{type(row).__name__} of {len(parts)} values" if len(parts) != 1 else type(row).__name__
        raise ValueError(
            f"A pair consists of two texts, such as ('query', 'document'); {where}{found}: {row!r:.80}."
        )
    for text in texts:
        check_unicode(text, place or 0)
    return str(texts[0]), str(texts[1])
