"""The labels that a loss accepts, checked when rows are read, so that no step gets an unusable label."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_st.util.arrow import is_list, is_number

Label = float | list[Any]


@dataclass(frozen=True)
class LabelNeed:
    """The labels that a loss accepts.

    Args:
        loss: The loss's name, for error messages.
        whole: Whether numbers must be whole.
        least: The minimum.
        most: The maximum.
        ignored: A value outside these limits that marks a row without a label.
        lengths: Accepted lengths of lists; 0 stands for a number outside a list, -1 for a list of any length.
            Empty if anything is accepted.
        different: Minimum number of distinct labels.
    """

    loss: str
    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    ignored: float | None = None
    lengths: tuple[int, ...] = ()
    different: int = 1

    def unmet(self, labels: pa.Array) -> Iterator[tuple[int, str]]:
        """Yields the row and the fault of each label that is not accepted; nulls are skipped.

        Args:
            labels: Numbers, or lists of numbers.
        """
        if not self._looks_at(is_number(labels.type)):
            return
        exact = _exact(labels.type)
        for row, value in enumerate(labels.to_pylist()):
            fault = self._fault(value, exact)
            if fault is not None:
                yield row, fault

    def _looks_at(self, number: bool) -> bool:
        """Whether some numbers, or some lists, are not accepted."""
        if not number:
            return bool(self.lengths)
        bounded = self.whole or self.least > -math.inf or self.most < math.inf
        return bounded or not self._is_taken(0)

    def _fault(self, label: Label | None, exact: int | None) -> str | None:
        value = label
        if isinstance(label, list) and len(label) == 1 and self._is_taken(0) and self._is_taken(1):
            value = label[0]
        if value is None:
            return None
        if not self._fits(value):
            return f"expected {self._expected()} as label of {self.loss}, found {_shown(value)}"
        if self.whole and exact is not None and not isinstance(value, list) and abs(value) > exact:
            return (
                f"found {value!r} in a column of floats, which hold not every whole number above {exact:,}: "
                f"store the labels of {self.loss} as integers"
            )
        return None

    def _fits(self, value: Label) -> bool:
        if isinstance(value, list):
            return self._is_taken(len(value))
        return self._is_taken(0) and self._within(value)

    def _is_taken(self, length: int) -> bool:
        return not self.lengths or length in self.lengths or (length > 0 and -1 in self.lengths)

    def _within(self, value: float) -> bool:
        if value == self.ignored:
            return True
        return self.least <= value <= self.most and (not self.whole or float(value).is_integer())

    def _expected(self) -> str:
        lists = [str(length) for length in self.lengths if length > 1]
        forms = [self._number()] if self._is_taken(0) else []
        forms += [f"a list of {' or '.join(lists)} numbers"] if lists else []
        return " or ".join(forms or ["a list of numbers"])

    def _number(self) -> str:
        number = "a whole number" if self.whole else "a number"
        if not (math.isfinite(self.least) and math.isfinite(self.most)):
            return number
        other = self.ignored is not None and not self.least <= self.ignored <= self.most
        ignored = f" (or {self.ignored:g}, which is ignored)" if other else ""
        return f"{number} from {self.least:g} to {self.most:g}{ignored}"


def _shown(value: Label) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else f"{value!r}"


def _exact(kind: pa.DataType) -> int | None:
    """The largest n up to which a float type, or a list of it, holds every integer; None for other types."""
    if is_list(kind):
        return _exact(kind.value_type)
    bits = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}.get(kind)
    return None if bits is None else 1 << bits
