"""How well and how fast exported files compute, beside the model that they were made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_st.cli.run_checks import RunFileError
from ray_st.evaluation.metrics.correlation import spearman

if TYPE_CHECKING:
    from datasets import Dataset

_ROUNDS = 3


@dataclass
class Checked:
    """What was measured of a model.

    Args:
        name: The file's name, or "torch".
        scores: Similarity or score of each pair (n,).
        apart: The largest difference of a number from torch's.
        figure_name: What the figure is.
        figure: Correlation of the scores with the rows' numbers, or with torch's scores.
        seconds: Time for all rows, of each round.
    """

    name: str
    scores: np.ndarray
    apart: float
    figure_name: str
    figure: float
    seconds: list[float] = field(default_factory=list)

    def loss(self, torch: Checked) -> float:
        """The share of torch's figure that is lost; negative for a gain."""
        return (torch.figure - self.figure) / abs(torch.figure) if torch.figure else 0.0


def columns_of(table: Dataset, where: str, texts: int) -> tuple[list[str], str | None]:
    """The first columns of texts, and the first of numbers, if any.

    Args:
        table: The rows.
        where: The argument that names them, for errors.
        texts: How many columns of texts are needed.

    Raises:
        RunFileError: If there are fewer.
    """
    kinds = {name: str(getattr(table.features[name], "dtype", "")) for name in table.column_names}
    found = [name for name, kind in kinds.items() if "string" in kind]
    numbers = [name for name, kind in kinds.items() if kind.startswith(("int", "float", "double"))]
    if len(found) < texts:
        raise RunFileError(f"{where}: expected {texts} columns of texts; the columns are {kinds}")
    return found[:texts], numbers[0] if numbers else None


def checked(model: Any, files: Mapping[str, Any], table: Dataset, batch_size: int) -> list[Checked]:
    """Compares a model with exported ones on the same rows, in turns.

    Args:
        model: The model on torch.
        files: The exported ones by the names of their files.
        table: Rows with two columns of texts and, if known, a number.
        batch_size: Texts in a batch.

    Returns:
        What was measured, torch's first.

    Raises:
        RunFileError: If the rows have no two columns of texts.
    """
    columns, number = columns_of(table, "--check", 2)
    pairs = list(zip(*(list(table[name]) for name in columns), strict=True))
    known = None if number is None else np.asarray(table[number], dtype=np.float64)
    measured: list[Checked] = []
    outputs: list[np.ndarray] = []
    models = {"torch": model, **files}
    for name, one in models.items():
        scores, output = _computed(one, pairs, batch_size)
        outputs.append(output)
        reference = known if known is not None else measured[0].scores if measured else scores
        figure_name = f"Spearman with {number}" if number else "Spearman with torch"
        apart = float(np.abs(output - outputs[0]).max())
        measured.append(Checked(name, scores, apart, figure_name, spearman(scores, reference)))
    for _ in range(_ROUNDS):
        for one, entry in zip(models.values(), measured, strict=True):
            start = time.perf_counter()
            _computed(one, pairs, batch_size)
            entry.seconds.append(time.perf_counter() - start)
    return measured


def _computed(model: Any, pairs: Sequence[tuple[str, str]], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The score of each pair, and all numbers that the model computes."""
    from ray_st.models.sentence_transformer import SentenceTransformer

    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False}
    if not isinstance(model, SentenceTransformer):
        scores = np.asarray(model.predict(pairs, **options), dtype=np.float64)
        return (scores if scores.ndim == 1 else scores[:, 0]), scores
    embeddings = model.encode([text for pair in pairs for text in pair], **options)
    return model.similarity_pairwise(embeddings[::2], embeddings[1::2]).numpy(), embeddings


def shown(measured: Sequence[Checked]) -> str:
    """A table of what was measured."""
    base = measured[0]
    heads = ("file", "pairs/s", "times torch", "apart", base.figure_name, "lost")
    rows = [heads]
    for one in measured:
        ratio = statistics.median(theirs / own for own, theirs in zip(one.seconds, base.seconds, strict=True))
        rows.append(
            (
                one.name,
                f"{len(one.scores) / statistics.median(one.seconds):.0f}",
                f"{ratio:.2f}",
                f"{one.apart:.1e}",
                f"{one.figure:.4f}",
                f"{one.loss(base):.2%}",
            )
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
