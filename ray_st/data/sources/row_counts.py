"""The number of a source's rows, where it can be known without reading them."""

from __future__ import annotations

import datasets

from ray_st.data.sources.choose import Chosen, Joined
from ray_st.data.sources.files import Files
from ray_st.data.sources.hugging import HfDataset
from ray_st.data.sources.memory import Rows, Table


def known_rows(source: object) -> int | None:
    """Number of rows, including unusable ones; None if only reading them would tell.

    Args:
        source: A source, or a :class:`datasets.Dataset`.
    """
    match source:
        case datasets.Dataset():
            return len(source)
        case HfDataset(dataset=held) | Table(table=held) | Rows(rows=held):
            return len(held)
        case Files():
            return source.rows
        case Chosen():
            return known_rows(source.source)
        case Joined():
            counts = [known_rows(one) for one in source.sources]
            return None if None in counts else sum(filter(None, counts))
    return None


def read_anywhere(source: object) -> bool:
    """Whether rows of a source whose number is known can be read without those before them.

    Args:
        source: A source, or a :class:`datasets.Dataset`.
    """
    match source:
        case Rows():
            return False
        case Chosen():
            return read_anywhere(source.source)
        case Joined():
            return all(map(read_anywhere, source.sources))
    return True
