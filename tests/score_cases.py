"""The losses over scores with their options, what each is in slow lines, and the peer's way to write the options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import slow_scores as slow
from ray_st.losses import scores
from ray_st.testing import ScoreCase


@dataclass(frozen=True)
class Case:
    """One loss with options."""

    loss: str
    brute: Callable[..., Tensor]
    columns: int = 2
    options: Callable[[Any], dict[str, Any]] = (
        lambda module: {}
    )  # of the module of losses, ours or the peer's
    labels: str = "lists"
    num_labels: int = 1

    @property
    def conformance(self) -> ScoreCase:
        """What the kit needs to know."""
        return ScoreCase(lambda model: self.made(scores, model), self.columns, self.labels, self.num_labels)

    def made(self, module: Any, model: nn.Module) -> Any:
        """The loss of a module of losses."""
        return getattr(module, self.loss)(model, **self.options(module))


def _weighs(scheme: str, **options: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda module: {"weighting_scheme": getattr(module, scheme)(), **options}


def _falling(mask: Tensor) -> Tensor:
    return (1.0 / torch.log1p(mask.cumsum(dim=-1))).masked_fill(~mask, 0)


def _ranking(name: str, columns: int, **options: Any) -> Case:
    brute = partial(slow.ranking, **{key: options[key] for key in ("scale",) if key in options})
    if "activation_fn" in options:
        brute = partial(brute, activation=lambda logit: logit)
    return Case(name, brute, columns, lambda module: options, labels="none")


_mle = partial(slow.list_mle, weight=None)

CASES: dict[str, Case] = {
    "bce": Case("BinaryCrossEntropyLoss", slow.binary, labels="binary"),
    "bce score": Case("BinaryCrossEntropyLoss", slow.binary, labels="score"),
    "bce weight": Case(
        "BinaryCrossEntropyLoss",
        partial(slow.binary, positive=3.0),
        options=lambda module: {"pos_weight": torch.tensor(3.0)},
        labels="binary",
    ),
    "mse": Case("MSELoss", slow.squared, labels="score"),
    "ce": Case("CrossEntropyLoss", slow.classes, labels="class", num_labels=3),
    "ce weight": Case(
        "CrossEntropyLoss",
        partial(slow.classes, weights=[1.0, 0.5, 3.0], ignored=1),
        options=lambda module: {"weight": torch.tensor([1.0, 0.5, 3.0]), "ignore_index": 1},
        labels="class",
        num_labels=3,
    ),
    "margin": Case("MarginMSELoss", slow.margins, 4, labels="margins"),
    "margin scores": Case("MarginMSELoss", partial(slow.margins, scores=True), 4, labels="candidates"),
    "mnrl": _ranking("MultipleNegativesRankingLoss", 2, num_negatives=None),
    "mnrl hard": _ranking("MultipleNegativesRankingLoss", 4, num_negatives=None, scale=3.0),
    "mnrl drawn": _ranking("MultipleNegativesRankingLoss", 3),
    "mnrl plain": _ranking(
        "MultipleNegativesRankingLoss", 2, num_negatives=None, scale=1.0, activation_fn=None
    ),
    "cached mnrl": _ranking("CachedMultipleNegativesRankingLoss", 3, num_negatives=None, mini_batch_size=5),
    "list net": Case("ListNetLoss", slow.list_net),
    "list mle": Case("ListMLELoss", _mle),
    "list mle sorted": Case(
        "ListMLELoss", partial(_mle, sort=True), options=lambda module: {"respect_input_order": False}
    ),
    "plist mle": Case("PListMLELoss", slow.list_mle),
    "plist mle sorted": Case(
        "PListMLELoss",
        partial(slow.list_mle, sort=True),
        options=lambda module: {"respect_input_order": False, "mini_batch_size": 4},
    ),
    "plist mle weight": Case(
        "PListMLELoss",
        partial(slow.list_mle, weight=lambda rank, _: float(1 / torch.log1p(torch.tensor(rank)).double())),
        options=lambda module: {"lambda_weight": module.PListMLELambdaWeight(_falling)},
    ),
    "lambda": Case("LambdaLoss", slow.lambdas),
    "lambda k": Case(
        "LambdaLoss",
        partial(slow.lambdas, k=2, sigma=0.5, base=torch.e),
        options=lambda module: {"k": 2, "sigma": 0.5, "reduction_log": "natural"},
    ),
    "lambda 1": Case(
        "LambdaLoss",
        partial(slow.lambdas, weight=slow.ndcg_1, all_pairs=True, k=3),
        options=_weighs("NDCGLoss1Scheme", k=3),
    ),
    "lambda 2": Case(
        "LambdaLoss", partial(slow.lambdas, weight=slow.ndcg_2), options=_weighs("NDCGLoss2Scheme")
    ),
    "lambda rank": Case(
        "LambdaLoss", partial(slow.lambdas, weight=slow.lambda_rank), options=_weighs("LambdaRankScheme")
    ),
    "lambda none": Case(
        "LambdaLoss",
        partial(slow.lambdas, weight=slow.no_weight),
        options=lambda module: {"weighting_scheme": None, "mini_batch_size": 3},
    ),
    "rank net": Case("RankNetLoss", partial(slow.lambdas, weight=slow.no_weight)),
    "rank net k": Case(
        "RankNetLoss", partial(slow.lambdas, weight=slow.no_weight, k=1), options=lambda module: {"k": 1}
    ),
    "adr mse": Case("ADRMSELoss", slow.adr_mse),
    "adr mse alpha": Case(
        "ADRMSELoss", partial(slow.adr_mse, alpha=2.5), options=lambda module: {"alpha": 2.5}
    ),
}
