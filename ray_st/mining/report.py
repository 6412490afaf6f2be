"""The report of mining: statistics of scores, what limits removed, and rows without enough negatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ray_st.mining.choice import Choice
from ray_st.mining.write import Mined

_STATISTICS = {
    "Count": lambda scores: f"{len(scores):,}",
    "Mean": lambda scores: f"{scores.mean():.4f}",
    "Std": lambda scores: f"{scores.std(ddof=1):.4f}" if len(scores) > 1 else "",
    "Min": lambda scores: f"{scores.min():.4f}",
    "25%": lambda scores: f"{np.quantile(scores, 0.25):.4f}",
    "50%": lambda scores: f"{np.quantile(scores, 0.5):.4f}",
    "75%": lambda scores: f"{np.quantile(scores, 0.75):.4f}",
    "Max": lambda scores: f"{scores.max():.4f}",
}


@dataclass
class Tally:
    """Counts and scores, collected block by block.

    Attributes:
        candidates: Candidates before limits, without positives.
        removed: How many of them each limit removed.
        positives: Scores of the pairs, by block.
        negatives: Scores of the negatives of each pair, by block.
        differences: Differences of the positives' scores to the negatives', by block.
    """

    candidates: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    positives: list[np.ndarray] = field(default_factory=list)
    negatives: list[np.ndarray] = field(default_factory=list)
    differences: list[np.ndarray] = field(default_factory=list)

    def add(self, mined: Mined) -> None:
        """Adds the scores of a block.

        Args:
            mined: The block.
        """
        pair, place = np.nonzero(mined.there)
        scores = mined.scores[pair, place]
        self.positives.append(mined.positive_scores)
        self.negatives.append(scores)
        self.differences.append(mined.positive_scores[pair] - scores)

    def lines(self, choice: Choice) -> Iterator[str]:
        """The report, line by line.

        Args:
            choice: The limits that were applied.
        """
        columns = [np.concatenate(parts) for parts in (self.positives, self.negatives, self.differences)]
        yield "{:<6} {:>14} {:>14} {:>14}".format("Metric", "Positive", "Negative", "Difference")
        for name, statistic in _STATISTICS.items():
            values = [statistic(scores) if len(scores) or name == "Count" else "" for scores in columns]
            yield "{:<6} {:>14} {:>14} {:>14}".format(name, *values)
        for name, limit in choice.limits().items():
            if count := self.removed.get(name, 0):
                share = count / self.candidates
                yield f"{name}={limit} removed {count:,} of {self.candidates:,} candidates ({share:.2%})."


def missing(found: int, wanted: int, choice: Choice) -> str | None:
    """A warning about rows that lack negatives; None if there are none.

    Args:
        found: Rows found.
        wanted: Rows if each query had all its negatives.
        choice: The limits, which may be loosened.
    """
    if found >= wanted:
        return None
    loosen = ["range_max", *(["range_min"] if choice.range_min else []), *choice.limits()]
    return (
        f"Mining found too few negatives for {wanted - found:,} of {wanted:,} rows "
        f"({1 - found / wanted:.2%}), which are left out. More documents, or other values of "
        f"{', '.join(loosen)}, would give more."
    )
