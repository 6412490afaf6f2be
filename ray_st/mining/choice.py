"""Which candidates become negatives, as one checked value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ray_st.util.value_checks import check_at_least_one

STRATEGIES = ("top", "random")
MARGIN_OVERSAMPLING = 10  # candidates searched per negative if limits on scores may remove some


@dataclass(frozen=True)
class Choice:
    """Limits on candidates, and how many of the remaining ones to take.

    Ranks count from 0, over the candidates that remain after positives and limits on scores.

    Args:
        num_negatives: Negatives of a query, at least 1.
        range_min: Rank of the first candidate that may be taken.
        range_max: Rank after the last candidate that may be taken; None for the one that :meth:`settled`
            sets.
        max_score: The highest score allowed.
        min_score: The lowest score allowed.
        absolute_margin: The least difference allowed between the score of the query's worst positive and that
            of a negative.
        relative_margin: The same as a share of the absolute value of the positive's score.
        sampling_strategy: "top" takes the best candidates, "random" any.
        seed: Seed of the random choice; the same seed takes the same candidates.
        include_positives: Whether positives are candidates too.

    Raises:
        ValueError: If a value is invalid, or there are fewer ranks than negatives.
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling_strategy: str = "top"
    seed: int = 0
    include_positives: bool = False

    def __post_init__(self) -> None:
        check_at_least_one(num_negatives=self.num_negatives)
        if self.range_min < 0:
            raise ValueError(f"range_min must be at least 0; got {self.range_min}.")
        if self.sampling_strategy not in STRATEGIES:
            raise ValueError(
                f"sampling_strategy must be one of {', '.join(STRATEGIES)}; got {self.sampling_strategy!r}."
            )
        self._check_limits()
        if self.range_max is not None and self.range_max - self.range_min < self.num_negatives:
            raise ValueError(
                f"range_min={self.range_min} and range_max={self.range_max} leave fewer candidates than "
                f"num_negatives={self.num_negatives}; raise range_max or lower one of the others."
            )

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Choice:
        """The choice among the arguments of a call, by name."""
        return cls(**{part.name: arguments[part.name] for part in fields(cls)})

    def _check_limits(self) -> None:
        for name, value in self.limits().items():
            if math.isnan(value):
                raise ValueError(f"{name} must be a number; got nan.")
        if self.max_score is not None and self.min_score is not None and self.min_score > self.max_score:
            raise ValueError(f"min_score={self.min_score} is above max_score={self.max_score}.")

    def limits(self) -> dict[str, float]:
        """The limits on scores that are set, by name, in the order in which they are applied."""
        values = {
            "absolute_margin": self.absolute_margin,
            "relative_margin": self.relative_margin,
            "max_score": self.max_score,
            "min_score": self.min_score,
        }
        return {name: value for name, value in values.items() if value is not None}

    def settled(self, most_positives: int, rescored: bool) -> Choice:
        """This choice with a range_max: room for negatives and positives, ten times as much if limits apply.

        Args:
            most_positives: Rows of the query that has the most.
            rescored: Whether a cross-encoder changes scores, so that min_score may remove any candidate.
        """
        if self.range_max is not None:
            return self
        removing = set(self.limits()) - (set() if rescored else {"min_score"})
        wanted = self.num_negatives * (MARGIN_OVERSAMPLING if removing else 1)
        return replace(self, range_max=self.range_min + wanted + most_positives)

    def reach(self, most_left_out: int) -> int:
        """How many of the nearest documents to find, so that the ranks can be filled despite exclusions.

        Args:
            most_left_out: Most documents that are no candidates of a query.
        """
        assert self.range_max is not None  # after settled()
        return self.range_max + most_left_out
