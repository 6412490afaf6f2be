"""Each loss in a few slow lines: loops over rows instead of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y) / (x.norm() * y.norm())


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([cosine(x, y) for x, y in zip(a, b, strict=True)])


def mean(values: Any) -> Tensor:
    values = list(values)
    return sum(values) / len(values)


def log_sum(values: Any) -> Tensor:
    return torch.log(sum(value.exp() for value in values))


def ranking(
    columns: list[Tensor],
    _: Any = None,
    scale: float = 20.0,
    sim: Callable[..., Tensor] = cosine,
    directions: Any = ("query_to_doc",),
    partition_mode: str = "joint",
    hardness: tuple[str, float] | None = None,
) -> Tensor:
    queries, positives = columns[:2]
    n = len(queries)
    docs = [(row, i, kind) for kind, column in enumerate(columns[1:]) for i, row in enumerate(column)]

    def penalty(score: Tensor, i: int, j: int, kind: int) -> Any:
        hit = (
            hardness
            and {
                "in_batch_negatives": i != j,
                "hard_negatives": i == j and kind > 0,
                "all_negatives": i != j or kind > 0,
            }[hardness[0]]
        )
        return hardness[1] * score.detach() if hit else 0

    losses = []
    for i in range(n):
        scores = {
            "query_to_doc": [
                scale * sim(queries[i], d) + penalty(sim(queries[i], d), i, j, kind) for d, j, kind in docs
            ],
            "query_to_query": [scale * sim(queries[i], queries[j]) for j in range(n) if j != i],
            "doc_to_query": [scale * sim(positives[i], query) for query in queries],
            "doc_to_doc": [scale * sim(positives[i], d) for d, j, _ in docs if j != i],
        }
        chosen = [scores[direction] for direction in directions]
        joint = partition_mode == "joint"
        denominator = (
            log_sum(value for part in chosen for value in part)
            if joint
            else mean(log_sum(part) for part in chosen)
        )
        losses.append(denominator - scores["query_to_doc"][i])
    return mean(losses)


def gist(columns: list[Tensor], _: Any, loss: Any, features: Any, aa: bool = True, pp: bool = True) -> Tensor:
    guides = [loss.guide(column)["sentence_embedding"].detach() for column in features]
    losses = []
    for i in range(len(columns[0])):
        best = cosine(guides[0][i], guides[1][i])
        limit = best - loss.margin * (best.abs() if loss.margin_strategy == "relative" else 1)
        pairs = [(0, i, c, j) for c in range(1, len(columns)) for j in range(len(columns[0]))]
        pairs += [(0, i, 0, j) for j in range(len(columns[0])) if j != i and aa]
        pairs += [(1, i, 1, j) for j in range(len(columns[0])) if j != i and pp]
        kept = [
            cosine(columns[a][b], columns[c][d]) / loss.temperature
            for a, b, c, d in pairs
            if (a, b, c, d) == (0, i, 1, i) or cosine(guides[a][b], guides[c][d]) <= limit
        ]
        losses.append(log_sum(kept) - cosine(columns[0][i], columns[1][i]) / loss.temperature)
    return mean(losses)


def cosent(columns: list[Tensor], labels: Tensor, scale: float = 20.0, sim: Any = cosines) -> Tensor:
    s, n = scale * sim(*columns), len(labels)
    return torch.log(
        1 + sum((s[i] - s[j]).exp() for i in range(n) for j in range(n) if labels[i] < labels[j])
    )


def angles(a: Tensor, b: Tensor) -> Tensor:
    half = a.shape[1] // 2
    z, w = (torch.complex(x[:, :half], x[:, half:]) / x.norm(dim=1, keepdim=True) for x in (a, b))
    product = (z * w.conj()).sum(1)
    return (product.real + product.imag).abs()


def angle_triplets(columns: list[Tensor], labels: Tensor | None) -> Tensor:
    anchor, positive, negative = columns
    labels = torch.ones(len(anchor)) if labels is None else labels
    pairs = [torch.cat([anchor, anchor]), torch.cat([positive, negative])]
    return cosent(pairs, torch.cat([labels, 1 - labels]), sim=angles)


def regression(columns: list[Tensor], labels: Tensor) -> Tensor:
    return ((cosines(*columns) - labels) ** 2).mean()


def absolute(columns: list[Tensor], labels: Tensor) -> Tensor:
    return (1 / (1 + torch.exp(-cosines(*columns))) - labels).abs().mean()


def triplet(columns: list[Tensor], _: Any, distance: Callable[..., Tensor], margin: float) -> Tensor:
    rows = [distance(a - p) - distance(a - n) for a, p, n in zip(*columns, strict=True)]
    return torch.stack([(row + margin).clamp(min=0) for row in rows]).mean()


def cosine_triplet(columns: list[Tensor], _: Any) -> Tensor:
    a, p, n = columns
    return ((1 - cosines(a, p)) - (1 - cosines(a, n)) + 0.1).clamp(min=0).mean()


def mined(kind: str, margin: float = 5, cos: bool = False) -> Callable[..., Tensor]:
    """Triplets found by class, one row after the other."""

    def brute(columns: list[Tensor], labels: Tensor) -> Tensor:
        x, n = columns[0], len(labels)
        d = [[1 - cosine(x[i], x[j]) if cos else (x[i] - x[j]).norm() for j in range(n)] for i in range(n)]
        losses = []
        for i in range(n):
            alike = [j for j in range(n) if labels[j] == labels[i] and j != i]
            others = [d[i][j] for j in range(n) if labels[j] != labels[i]]
            if kind == "all":
                losses += [d[i][j] - other + margin for j in alike for other in others]
            elif kind == "semi":
                for j in alike:
                    further = [other for other in others if other > d[i][j]]
                    losses.append(d[i][j] - (min(further) if further else max(others)) + margin)
            else:
                losses.append(max(d[i][j] for j in alike) - min(others) + (margin if kind == "hard" else 0))
        if kind == "soft":
            return mean(torch.log(1 + loss.exp()) for loss in losses)
        losses = [loss.clamp(min=0) for loss in losses]
        return mean([loss for loss in losses if loss > 1e-16] if kind == "all" else losses)

    return brute


def contrastive(columns: list[Tensor], labels: Tensor, summed: bool = False) -> Tensor:
    rows = []
    for x, y, label in zip(*columns, labels, strict=True):
        d = 1 - cosine(x, y)
        rows.append((d**2 if label == 1 else (0.5 - d).clamp(min=0) ** 2) / 2)
    return sum(rows) if summed else mean(rows)


def online_contrastive(columns: list[Tensor], labels: Tensor) -> Tensor:
    d = [(x - y + 1e-6).norm() for x, y in zip(*columns, strict=True)]
    alike = [value for value, label in zip(d, labels, strict=True) if label == 1]
    others = [value for value, label in zip(d, labels, strict=True) if label == 0]
    drawn = sum(value**2 for value in alike if value > min(others))
    return drawn + sum((4 - value).clamp(min=0) ** 2 for value in others if value < max(alike))


def mega_batch(columns: list[Tensor], _: Any) -> Tensor:
    rows = []
    for i, anchor in enumerate(columns[0]):
        scores = [cosine(anchor, other) for other in columns[1]]
        hardest = max(score for j, score in enumerate(scores) if j != i)
        rows.append((0.8 - scores[i]).clamp(min=0) + (hardest - 0.3).clamp(min=0))
    return mean(rows)


def distill(metric: str) -> Callable[..., Tensor]:
    def brute(columns: list[Tensor], labels: Tensor, loss: Any, features: Any) -> Tensor:
        rows = []
        for c, column in enumerate(columns):
            for student, teacher in zip(column, labels if labels.ndim == 2 else labels[:, c], strict=True):
                if loss.projection is not None:
                    student = loss.projection.weight @ student + loss.projection.bias
                teacher = teacher[: len(student)]  # a modifier cuts both
                gap = student - teacher
                rows.append(
                    {"mse": (gap**2).mean(), "l2": gap.norm(), "cosine": 1 - cosine(student, teacher)}[metric]
                )
        return mean(rows)

    return brute


def margins(columns: list[Tensor], labels: Tensor) -> Tensor:
    rows = []
    for i, query in enumerate(columns[0]):
        row = labels[i].reshape(-1)
        wanted = row[:1] - row[1:] if len(row) == len(columns) - 1 else row
        for k, negative in enumerate(columns[2:]):
            rows.append((query @ columns[1][i] - query @ negative[i] - wanted[k]) ** 2)
    return mean(rows)


def divergence(columns: list[Tensor], labels: Tensor, student: float, teacher: float) -> Tensor:
    rows = []
    for i, query in enumerate(columns[0]):
        p = torch.softmax(labels[i] / teacher, 0)
        q = torch.softmax(torch.stack([query @ other[i] for other in columns[1:]]) / student, 0)
        rows.append((p * (p.log() - q.log())).sum() * student**2)
    return mean(rows)


def orthogonal(columns: list[Tensor], _: Any) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for column in columns:
        n, d = column.shape
        s = torch.stack([cosine(column[i], column[j]) for i in range(n) for j in range(n) if i != j])
        total = total + s.mean() ** 2 * 0.5 + 2 * ((s**2).mean() - 1 / d).clamp(min=0)
    return total / len(columns)


def classified(columns: list[Tensor], labels: Tensor, loss: Any, features: Any) -> Tensor:
    rows = []
    for u, v, label in zip(*columns, labels, strict=True):
        logits = loss.classifier.weight @ torch.cat([u, v, (u - v).abs(), u * v]) + loss.classifier.bias
        rows.append(log_sum(logits) - logits[int(label)])
    return mean(rows)


def tension(columns: list[Tensor], labels: Tensor | None, loss: Any, features: Any) -> Tensor:
    rows = []
    for i, (x, y) in enumerate(zip(*columns, strict=True)):
        tokens = [f["input_ids"][i][f["attention_mask"][i] == 1].tolist() for f in features]
        label = float(tokens[0] == tokens[1]) if labels is None else labels[i]
        p = 1 / (1 + torch.exp(-x @ y))
        rows.append(-(label * p.log() + (1 - label) * (1 - p).log()))
    return sum(rows)


def tension_in_batch(columns: list[Tensor], labels: Any, loss: Any, features: Any) -> Tensor:
    return ranking(
        columns,
        scale=loss.logit_scale.exp(),
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )


def matryoshka(inner: Callable[..., Tensor], dims: dict[int, float]) -> Callable[..., Tensor]:
    def brute(columns: list[Tensor], labels: Any, *others: Any) -> Tensor:
        return sum(
            w * inner([normalize(c[:, :dim]) for c in columns], labels, *others) for dim, w in dims.items()
        )

    return brute
