"""What the losses over scores are, in loops over plain numbers: one list of logits for each query."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Rows = Sequence[Sequence[Tensor]]
Labels = Sequence[Sequence[float]]


def sigmoid(value: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-value))


def binary(rows: Rows, labels: Sequence[float], positive: float = 1.0) -> Tensor:
    losses = []
    for (logit,), label in zip(rows, labels, strict=True):
        p = sigmoid(logit)
        losses.append(-positive * label * torch.log(p) - (1 - label) * torch.log(1 - p))
    return sum(losses) / len(losses)


def squared(rows: Rows, labels: Sequence[float]) -> Tensor:
    return sum((logit - label) ** 2 for (logit,), label in zip(rows, labels, strict=True)) / len(rows)


def margins(rows: Rows, labels: Labels, scores: bool = False) -> Tensor:
    errors = []
    for (first, *others), wanted in zip(rows, labels, strict=True):
        gaps = [wanted[0] - other for other in wanted[1:]] if scores else wanted
        errors += [(first - other - gap) ** 2 for other, gap in zip(others, gaps, strict=True)]
    return sum(errors) / len(errors)


def classes(
    rows: Rows, labels: Sequence[int], weights: Sequence[float] | None = None, ignored: int = -100
) -> Tensor:
    losses, counts = [], 0.0
    for logits, label in zip(rows, labels, strict=True):
        if label == ignored:
            continue
        weight = 1.0 if weights is None else weights[label]
        losses.append(-weight * torch.log(torch.exp(logits[label]) / sum(map(torch.exp, logits))))
        counts += weight
    return sum(losses) / counts


def ranking(rows: Rows, scale: float = 10.0, activation: Callable[[Tensor], Tensor] = sigmoid) -> Tensor:
    losses = []
    for logits in rows:
        scores = [torch.exp(scale * activation(logit)) for logit in logits]
        losses.append(-torch.log(scores[0] / sum(scores)))
    return sum(losses) / len(losses)


def list_net(rows: Rows, labels: Labels) -> Tensor:
    losses = []
    for logits, wanted in zip(rows, labels, strict=True):
        below, above = sum(map(torch.exp, logits)), sum(map(math.exp, wanted))
        losses.append(
            -sum(
                math.exp(label) / above * torch.log(torch.exp(logit) / below)
                for logit, label in zip(logits, wanted, strict=True)
            )
        )
    return sum(losses) / len(losses)


def list_mle(
    rows: Rows,
    labels: Labels,
    weight: Callable[[int, int], float] | None = lambda rank, length: 2.0 ** (length - rank) - 1,
    sort: bool = False,
) -> Tensor:
    losses = []
    for logits, wanted in zip(rows, labels, strict=True):
        order = sorted(range(len(logits)), key=lambda i: -wanted[i]) if sort else range(len(logits))
        right = [logits[i] for i in order]
        weights = [1.0 if weight is None else weight(rank, len(right)) for rank in range(1, len(right) + 1)]
        whole = 1.0 if weight is None else sum(weights) + 1e-10
        losses.append(
            -sum(
                weights[i] / whole * torch.log(torch.exp(logit) / sum(map(torch.exp, right[i:])))
                for i, logit in enumerate(right)
            )
        )
    return sum(losses) / len(losses)


def adr_mse(rows: Rows, labels: Labels, alpha: float = 1.0) -> Tensor:
    errors = []
    for logits, wanted in zip(rows, labels, strict=True):
        for i, (logit, label) in enumerate(zip(logits, wanted, strict=True)):
            found = 1 + sum(sigmoid(alpha * (other - logit)) for j, other in enumerate(logits) if j != i)
            places = [place for place, each in enumerate(sorted(wanted, reverse=True), 1) if each == label]
            rank = sum(places) / len(places)
            errors.append((rank - found) ** 2 / math.log2(1 + rank))
    return sum(errors) / len(errors)


Weight = Callable[[int, int, list[float]], float]
"""The weight of documents at two places, from 1, given the gains of all."""


def no_weight(i: int, j: int, gains: list[float]) -> float:
    return 1.0


def ndcg_1(i: int, j: int, gains: list[float]) -> float:
    return gains[i - 1] / math.log2(1 + i)


def ndcg_2(i: int, j: int, gains: list[float]) -> float:
    if i == j:
        return 0.0
    apart = abs(i - j)
    change = abs(1 / math.log2(1 + apart) - 1 / math.log2(2 + apart))
    return change * abs(gains[i - 1] - gains[j - 1])


def lambda_rank(i: int, j: int, gains: list[float]) -> float:
    return abs(1 / math.log2(1 + i) - 1 / math.log2(1 + j)) * abs(gains[i - 1] - gains[j - 1])


def ndcg_2pp(i: int, j: int, gains: list[float], mu: float = 10.0) -> float:
    return mu * ndcg_2(i, j, gains) + lambda_rank(i, j, gains)


def lambdas(
    rows: Rows,
    labels: Labels,
    weight: Weight = ndcg_2pp,
    k: int | None = None,
    sigma: float = 1.0,
    base: float = 2.0,
    all_pairs: bool = False,
) -> Tensor:
    costs = []
    for logits, wanted in zip(rows, labels, strict=True):
        order = sorted(range(len(logits)), key=lambda i: -logits[i].item())
        best = sorted((max(label, 0.0) for label in wanted), reverse=True)
        most = sum((2**label - 1) / math.log2(1 + rank) for rank, label in enumerate(best[:k], 1))
        gains = [(2 ** max(wanted[i], 0.0) - 1) / max(most, 1e-10) for i in order]
        near = len(logits) if k is None else k
        for i, first in enumerate(order, 1):
            for j, second in enumerate(order, 1):
                if (all_pairs or wanted[first] > wanted[second]) and min(i, j) <= near:
                    cost = -torch.log(sigmoid(sigma * (logits[first] - logits[second]))) / math.log(base)
                    costs.append(weight(i, j, gains) * cost)
    return sum(costs) / max(len(costs), 1)
