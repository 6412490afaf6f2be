"""Runs the scripts of the reference pages themselves, with only the import changed, on one worker and on two.

    python tests/page_scripts.py FOLDER [NAME ...]

FOLDER holds the pages as text. They are scans: lines are broken, and some characters lost; :func:`mended` puts them right.
Names on the Hub stand for a small model and small data, as in the examples offline; precision that needs a GPU is switched
off where there is none, as the pages say; two trials are searched, not twenty; nothing is pushed. On two workers a script
has one more argument, ``scaling_config``.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import ray
import torch
from ray.train import ScalingConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from offline import in_format, packaged_model, rows, stand_ins
from ray_st import SentenceTransformer, SentenceTransformerTrainingArguments
from ray_st.training_args import BatchSamplers

SCRIPTS = {
    "the whole training": ("004", 1423, 1555),
    "several data sets": ("004", 1713, 1892),
    "hyperparameter search": ("003", 503, 598),
    "order of several data sets": ("002", 870, 941),
    "no duplicates": ("002", 689, 721),
    "arguments": ("004", 1076, 1127),
    "evaluator of triplets": ("004", 1281, 1312),
    "fit": ("004", 1925, 1977),
    "evaluator of scores": ("004", 1217, 1252),
    "data of the Hub": ("004", 713, 732),
    "data of lists": ("004", 805, 827),
    "a loss and its data": ("004", 916, 952),
    "evaluator of search": ("004", 1327, 1342),
    "data of a CSV file": ("004", 767, 771),
    "data of a JSON file": ("004", 777, 781),
}
"""For each script its page, and its first and last line there; the largest first."""

TRAINS = re.compile(r"\b(SentenceTransformerTrainer|model\.fit)\(")
LOST = {
    r"\\_": "_",
    r"\bhpo loss init\b": "hpo_loss_init",
    r"\beval sts-dev spearman cosine\b": "eval_sts-dev_spearman_cosine",
    r"Valid keys are(.|\n)*?\.{5}\s+": "",  # a docstring without its quotes
    r"\}\}": "})",
    r"(?m)^(?=\d\. )": "# ",
}
"""What the scans lost."""


def read(folder: Path, name: str) -> str:
    """A script as it is on its page, mended."""
    page, first, last = SCRIPTS[name]
    (path,) = folder.glob(f"{page}_*.txt")
    return mended("\n".join(path.read_text().splitlines()[first - 1 : last]))


def mended(scan: str) -> str:
    """A script that Python can read: each line that it cannot is moved to the margin, or joined to its neighbour.

    Raises:
        SyntaxError: If that does not help.
    """
    for lost, found in LOST.items():
        scan = re.sub(lost, found, scan)
    scan = re.sub(r" from (?=[\w.]+ import )", "\nfrom ", scan)
    lines = [re.sub("^(## |  )", "", line).rstrip() for line in scan.splitlines()]
    lines = [line for line in lines if line and not line.startswith("```")]
    while fault := fault_of(lines):
        row = min(fault.lineno or 1, len(lines)) - 1
        dedented = [*lines[:row], lines[row].strip(), *lines[row + 1 :]]
        better = min(dedented, joined(lines, row - 1), joined(lines, row), key=unread)
        if unread(better) >= unread(lines):
            raise fault
        lines = better
    return "\n".join(lines) + "\n"


def joined(lines: list[str], row: int) -> list[str]:
    """The same with a line and the next one in one; the same if there is no such line."""
    if not 0 <= row < len(lines) - 1:
        return lines
    return [*lines[:row], f"{lines[row]} {lines[row + 1].strip()}", *lines[row + 2 :]]


def fault_of(lines: list[str]) -> SyntaxError | None:
    """Why Python cannot read these lines; None if it can."""
    try:
        ast.parse("\n".join(lines))
    except SyntaxError as fault:
        return fault
    return None


def unread(lines: list[str]) -> int:
    """How many lines there are from the first that Python cannot read."""
    fault = fault_of(lines)
    return 0 if fault is None else len(lines) - (fault.lineno or 1) + 1


def adapted(script: str, workers: int) -> str:
    """A script with its import changed, for this machine and this number of workers."""
    script = re.sub(r"^(from|import) sentence_transformers\b", r"\1 ray_st", script, flags=re.MULTILINE)
    script = script.replace("# dev_evaluator(model)", "print(dev_evaluator(model))")  # as the pages say
    script = script.replace("n_trials=20", "n_trials=2")
    if not torch.cuda.is_available():
        script = script.replace("fp16=True", "fp16=False")
    if workers > 1:
        script = TRAINS.sub(lambda call: f"{call[0]}scaling_config=scaling_config, ", script)
    return script


def play(script: str, workers: int) -> str:
    """Runs an adapted script in an empty folder; says what came of it."""
    os.chdir(tempfile.mkdtemp())
    scored = in_format("pair-score", rows(held_out=False))
    scored.to_csv("my_file.csv")
    scored.to_json("my_file.json")
    names: dict[str, Any] = {
        "__name__": "__main__",
        "scaling_config": ScalingConfig(num_workers=workers),
        # what fragments take for granted
        "model": SentenceTransformer("microsoft/mpnet-base", device="cpu"),
        "SentenceTransformerTrainingArguments": SentenceTransformerTrainingArguments,
        "BatchSamplers": BatchSamplers,
    }
    with (
        patch.object(SentenceTransformer, "push_to_hub", lambda model, name: name),
        patch.object(datasets.Dataset, "select", as_many_as_there_are),
    ):
        exec(compile(script, "page", "exec"), names)
    history = names["trainer"].state.log_history if "trainer" in names else []
    return ", ".join(f"{name} {value:.4g}" for name, value in (history[-1] if history else {}).items())


_select = datasets.Dataset.select


def as_many_as_there_are(dataset: datasets.Dataset, numbers: Any) -> datasets.Dataset:
    """``Dataset.select`` without numbers that a small data set has not."""
    return _select(dataset, [number for number in numbers if number < len(dataset)])


def main() -> None:
    """Runs scripts and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=lambda path: Path(path).resolve(), help="the pages")
    parser.add_argument("names", nargs="*", help="some scripts; by default all")
    parser.add_argument(
        "--model", type=lambda path: Path(path).resolve(), help="folder of another small model"
    )
    args = parser.parse_args()
    cache = tempfile.TemporaryDirectory()
    with cache, stand_ins(args.model or packaged_model(), Path(cache.name)):
        ray.init(num_cpus=4, log_to_driver=False)
        print("| script | lines | workers | seconds | at the end |\n| --- | --: | --: | --: | --- |")
        for name in args.names or SCRIPTS:
            script = read(args.folder, name)
            for workers in (1, 2) if TRAINS.search(script) else (1,):
                start = time.monotonic()
                said = play(adapted(script, workers), workers)
                lines = len(script.splitlines())
                print(
                    f"| {name} | {lines} | {workers} | {time.monotonic() - start:.0f} | {said} |", flush=True
                )
        ray.shutdown()


if __name__ == "__main__":
    main()
