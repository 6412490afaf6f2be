"""What every loss keeps, and how it compares with a few slow lines and with the peer. A new loss adds its cases to ``CASES``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import slow_losses as slow
import torch
from torch import Tensor, nn

from ray_st import losses
from ray_st.losses.parts import total
from ray_st.testing import LossCase, LossConformance, TinyEncoder
from ray_st.testing.loss_conformance import close
from ray_st.testing.tiny_encoder import DIM, gradient
from ray_st.util import dot_score, pairwise_dot_score

GUIDE = TinyEncoder(seed=1)


@dataclass(frozen=True)
class Case:
    """One loss with options, what it is in a few slow lines, and the peer's way to write the options."""

    loss: str
    brute: Callable[..., Tensor]
    columns: int
    options: Callable[[Any, nn.Module], dict[str, Any]] = (
        lambda *_: {}
    )  # of the module of losses, ours or the peer's
    labels: str = "none"
    pooled: bool = False
    whole: bool = False  # the slow lines also get the loss, with the weights that it owns, and the features
    embed: Callable[..., list[Tensor]] | None = None
    least_rows: int = 1

    @property
    def conformance(self) -> LossCase:
        """What the kit needs to know."""
        return LossCase(
            make=lambda model: made(self, losses, model),
            columns=self.columns,
            labels=self.labels,
            pooled=self.pooled,
            embedded=2 if self.embed else None,
            least_rows=self.least_rows,
            unlabelled_call=self.loss == "SoftmaxLoss",  # that asks for the logits
        )


def ranking(name: str = "MultipleNegativesRankingLoss", columns: int = 2, **options: Any) -> Case:
    known = {key: value for key, value in options.items() if key in ("scale", "directions", "partition_mode")}
    if "hardness_mode" in options:
        known["hardness"] = options["hardness_mode"], options["hardness_strength"]
    if "Symmetric" in name:
        known = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    return Case(name, partial(slow.ranking, **known), columns, lambda *_: options, pooled=True)


def gist(name: str = "GISTEmbedLoss", columns: int = 2, **options: Any) -> Case:
    lines = partial(
        slow.gist, aa=options.get("contrast_anchors", True), pp=options.get("contrast_positives", True)
    )
    options = {"temperature": 0.1, **options}
    return Case(name, lines, columns, lambda *_: {"guide": GUIDE, **options}, pooled=True, whole=True)


def batch(name: str, kind: str, margin: float = 5, cos: bool = False) -> Case:
    def options(module: Any, _: Any) -> dict[str, Any]:
        metric = (
            {"distance_metric": module.BatchHardTripletLossDistanceFunction.cosine_distance} if cos else {}
        )
        return {**metric, **({} if kind == "soft" else {"margin": margin})}

    # One row is not of two classes.
    return Case(name, slow.mined(kind, margin, cos), 1, options, "class", pooled=True, least_rows=5)


def distill(metric: str, columns: int, labels: str, **options: Any) -> Case:
    name = "MSELoss" if metric == "mse" and not columns % 2 else "EmbedDistillLoss"
    metrics = {} if name == "MSELoss" else {"distance_metric": metric}
    return Case(name, slow.distill(metric), columns, lambda *_: {**metrics, **options}, labels, whole=True)


def matryoshka(inner: Case, **options: Any) -> Case:
    dims = {6: 1.0, 4: 0.5, 2: 2.0}

    def made(module: Any, model: nn.Module) -> dict[str, Any]:
        loss = getattr(module, inner.loss)(model, **inner.options(module, model))
        return {"loss": loss, "matryoshka_dims": [2, 6, 4], "matryoshka_weights": [2.0, 1.0, 0.5]}

    return replace(inner, loss="MatryoshkaLoss", brute=slow.matryoshka(inner.brute, dims), options=made)


def siamese(name: str) -> Callable[..., dict[str, Any]]:
    return lambda module, _: {"distance_metric": getattr(module.SiameseDistanceMetric, name), "margin": 4.0}


SCORE, CLASS, BINARY = "score", "class", "binary"
ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
CASES = {
    "ranking-pairs": ranking(),
    "ranking-triplets": ranking(columns=3),
    "ranking-tuples": ranking(columns=5),
    "ranking-dot": Case(
        "MultipleNegativesRankingLoss",
        partial(slow.ranking, scale=0.5, sim=lambda x, y: x @ y),
        3,
        lambda *_: {"scale": 0.5, "similarity_fct": dot_score},
        pooled=True,
    ),
    "ranking-all-directions": ranking(columns=3, directions=ALL, scale=3.0),
    "ranking-two-directions": ranking(
        columns=3, directions=ALL[::2], partition_mode="per_direction", scale=3.0
    ),
    "ranking-in-batch": ranking(columns=4, hardness_mode="in_batch_negatives", hardness_strength=3.0),
    "ranking-hard": ranking(columns=4, hardness_mode="hard_negatives", hardness_strength=3.0),
    "ranking-all": ranking(
        columns=4, hardness_mode="all_negatives", hardness_strength=3.0, directions=ALL[:3]
    ),
    "symmetric": ranking("MultipleNegativesSymmetricRankingLoss"),
    "cached-ranking": ranking("CachedMultipleNegativesRankingLoss", 3, mini_batch_size=5),
    "cached-tokens": ranking("CachedMultipleNegativesRankingLoss", mini_batch_num_tokens=20, directions=ALL),
    "cached-symmetric": ranking("CachedMultipleNegativesSymmetricRankingLoss", mini_batch_size=4),
    "gist-pairs": gist(),
    "gist-triplets": gist(columns=3, margin_strategy="relative", margin=0.2),
    "gist-plain": gist(columns=3, contrast_anchors=False, contrast_positives=False, margin=0.1),
    "cached-gist": gist("CachedGISTEmbedLoss", 4, mini_batch_size=5, margin=0.1),
    "cosent": Case("CoSENTLoss", slow.cosent, 2, labels=SCORE, pooled=True),
    "cosent-dot": Case(
        "CoSENTLoss",
        partial(slow.cosent, scale=0.3, sim=lambda a, b: (a * b).sum(1)),
        2,
        lambda *_: {"scale": 0.3, "similarity_fct": pairwise_dot_score},
        labels=SCORE,
        pooled=True,
    ),
    "angle": Case("AnglELoss", partial(slow.cosent, sim=slow.angles), 2, labels=SCORE, pooled=True),
    "angle-triplets": Case("AnglELoss", slow.angle_triplets, 3, labels=SCORE, pooled=True),
    "angle-unlabelled": Case("AnglELoss", slow.angle_triplets, 3, pooled=True),
    "cosine": Case("CosineSimilarityLoss", slow.regression, 2, labels=SCORE),
    "cosine-absolute": Case(
        "CosineSimilarityLoss",
        slow.absolute,
        2,
        lambda *_: {"loss_fct": nn.L1Loss(), "cos_score_transformation": nn.Sigmoid()},
        labels=SCORE,
    ),
    "triplet": Case("TripletLoss", partial(slow.triplet, distance=lambda x: x.norm(), margin=5), 3),
    "triplet-manhattan": Case(
        "TripletLoss",
        partial(slow.triplet, distance=lambda x: x.abs().sum(), margin=0.7),
        3,
        lambda m, _: {"distance_metric": m.TripletDistanceMetric.MANHATTAN, "triplet_margin": 0.7},
    ),
    "triplet-cosine": Case(
        "TripletLoss",
        slow.cosine_triplet,
        3,
        lambda m, _: {"distance_metric": m.TripletDistanceMetric.COSINE, "triplet_margin": 0.1},
    ),
    "batch-all": batch("BatchAllTripletLoss", "all", 0.3),
    "batch-hard": batch("BatchHardTripletLoss", "hard"),
    "batch-hard-cosine": batch("BatchHardTripletLoss", "hard", 0.2, cos=True),
    "batch-soft": batch("BatchHardSoftMarginTripletLoss", "soft"),
    "batch-semi": batch("BatchSemiHardTripletLoss", "semi", 0.5),
    "contrastive": Case("ContrastiveLoss", slow.contrastive, 2, labels=BINARY),
    "contrastive-sum": Case(
        "ContrastiveLoss",
        partial(slow.contrastive, summed=True),
        2,
        lambda *_: {"size_average": False},
        labels=BINARY,
    ),
    "online": Case(
        "OnlineContrastiveLoss", slow.online_contrastive, 2, siamese("EUCLIDEAN"), BINARY, pooled=True
    ),
    "mega-batch": Case(
        "MegaBatchMarginLoss", slow.mega_batch, 2, lambda *_: {"mini_batch_size": 5}, pooled=True
    ),
    "mega-batch-at-once": Case(
        "MegaBatchMarginLoss", slow.mega_batch, 2, lambda *_: {"use_mini_batched_version": False}, pooled=True
    ),
    "mse": distill("mse", 2, "teacher columns"),
    "mse-projected": distill("mse", 1, "teacher wide", projection_dim=9),
    "distill-cosine": distill("cosine", 3, "teacher"),
    "distill-l2": distill("l2", 1, "teacher"),
    "margin-mse": Case("MarginMSELoss", slow.margins, 3, labels=SCORE),
    "margin-mse-margins": Case("MarginMSELoss", slow.margins, 4, labels="margins"),
    "margin-mse-scores": Case("MarginMSELoss", slow.margins, 4, labels="candidates"),
    "kl": Case(
        "DistillKLDivLoss",
        partial(slow.divergence, student=2.0, teacher=0.5),
        4,
        lambda *_: {"temperature": 2.0, "teacher_temperature": 0.5},
        labels="candidates",
    ),
    "orthogonal": Case(
        "GlobalOrthogonalRegularizationLoss",
        slow.orthogonal,
        2,
        lambda *_: {"mean_weight": 0.5, "second_moment_weight": 2.0},
        pooled=True,
    ),
    "softmax": Case(
        "SoftmaxLoss",
        slow.classified,
        2,
        lambda *_: {"embedding_dimension": DIM, "num_labels": 3, "concatenation_sent_multiplication": True},
        labels=CLASS,
        whole=True,
    ),
    "tension": Case(
        "ContrastiveTensionLoss",
        slow.tension,
        2,
        whole=True,
        embed=lambda loss, features: [loss.model1(features[0]), loss.model(features[1])],
    ),
    "tension-labelled": Case(
        "ContrastiveTensionLoss",
        slow.tension,
        2,
        labels=BINARY,
        whole=True,
        embed=lambda loss, features: [loss.model1(features[0]), loss.model(features[1])],
    ),
    "tension-in-batch": Case(
        "ContrastiveTensionLossInBatchNegatives",
        slow.tension_in_batch,
        1,
        pooled=True,
        whole=True,
        embed=lambda loss, features: [loss.model1(features[0]), loss.model(features[0])],
    ),
}
CASES |= {
    f"matryoshka-{name}": matryoshka(CASES[name])
    for name in ("ranking-triplets", "cached-ranking", "cosent", "gist-pairs", "mse", "batch-semi")
}


def made(case: Case, module: Any, model: nn.Module) -> Any:
    """The loss of a module of losses, ours or the peer's."""
    return getattr(module, case.loss)(model, **case.options(module, model))


def slowly(case: Case, loss: Any, features: Any, labels: Tensor | None) -> Tensor:
    embed = case.embed or (lambda loss, features: [loss.model(column) for column in features])
    columns = [output["sentence_embedding"] for output in embed(loss, features)]
    inner = getattr(loss, "loss", loss)
    return case.brute(columns, labels, inner, features) if case.whole else case.brute(columns, labels)


@pytest.fixture
def peers() -> Any:
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses")


@pytest.fixture
def theirs(entry: Case, peers: Any, encoder: nn.Module) -> Any:
    """The peer's loss of the same model."""
    torch.manual_seed(0)
    return made(entry, peers, encoder).double()


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def entry(request: pytest.FixtureRequest) -> Case:
    return request.param


def by_backward(value: Tensor, module: nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    value.backward()
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


class TestEveryLoss(LossConformance):
    @pytest.fixture
    def case(self, entry: Case) -> LossCase:
        return entry.conformance

    def test_value_and_gradient_are_the_slow_ones(self, entry, case, loss, features) -> None:
        labels = case.labels_of()
        mine = total(loss(features, labels))
        value = slowly(entry, loss, features, labels)
        close(mine, value)
        close(gradient(mine, loss), gradient(value, loss))
        assert mine.item() > 0

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_value_and_gradient_are_the_peers(self, case, loss, encoder, features, theirs) -> None:
        labels = case.labels_of()
        owned = {name: w for name, w in loss.named_parameters() if not name.startswith("model.")}
        theirs.load_state_dict(owned, strict=False)
        tolerance = 1e-10 if labels is None else 1e-6  # the peer takes some labels as float32
        other = total(theirs(features, labels))
        gradients = by_backward(other, theirs)
        theirs_of_model = {
            name: w.grad.clone() for name, w in encoder.named_parameters() if w.grad is not None
        }
        mine = total(loss(features, labels))
        close(mine, other.to(torch.float64), tolerance)
        found = by_backward(mine, loss)
        for name, wanted in theirs_of_model.items():
            close(found[f"model.{name}"], wanted, tolerance)
        assert {name for name in owned if not name.endswith("types")} <= gradients.keys()
        for name in gradients.keys() & owned.keys():
            close(found[name], gradients[name], tolerance)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_describes_itself_as_the_peer_does(self, entry, loss, theirs) -> None:
        wanted = theirs.get_config_dict()
        mine = loss.get_config_dict()
        json.dumps(mine)  # plain values only
        if "guide" in wanted:  # the peer gives the model itself
            wanted["guide"] = "TinyEncoder"
        if mine.get("mini_batch_size", 0) is None:  # the peer names the size that it does not use
            wanted["mini_batch_size"] = None
        assert mine == wanted
        assert loss.citation.strip().startswith("@") or entry.loss in UNPUBLISHED


UNPUBLISHED = ("CosineSimilarityLoss", "OnlineContrastiveLoss")
