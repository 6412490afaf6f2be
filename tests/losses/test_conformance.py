"""What every loss must keep: one class that each of them goes through. A new loss adds its cases to ``CASES``."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import slow_losses as slow
import torch
from tiny_encoder import DIM, TinyEncoder
from torch import Tensor, nn

from ray_st import losses
from ray_st.losses.columns import Columns
from ray_st.losses.loss import Loss
from ray_st.losses.parts import total
from ray_st.util import dot_score, pairwise_dot_score

DOUBLE = torch.float64
ROWS = 12
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

    return Case(name, slow.mined(kind, margin, cos), 1, options, "class", pooled=True)


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


def labels_of(case: Case, rows: int = ROWS) -> Tensor | None:
    generator = torch.Generator().manual_seed(1)
    shapes = {"margins": (case.columns - 2,), "candidates": (case.columns - 1,), "teacher": (DIM,)}
    shapes |= {"teacher columns": (case.columns, DIM), "teacher wide": (9,)}
    if case.labels in shapes:
        return torch.randn(rows, *shapes[case.labels], generator=generator, dtype=DOUBLE)
    if case.labels == "class":
        return torch.arange(rows) * 5 % 3
    if case.labels == "binary":
        return (torch.arange(rows) % 2).to(DOUBLE)
    return torch.randint(0, 4, (rows,), generator=generator).to(DOUBLE) / 3 if case.labels == SCORE else None


def build(case: Case, module: Any, model: nn.Module) -> Any:
    torch.manual_seed(0)
    return getattr(module, case.loss)(model, **case.options(module, model)).double()


def slowly(case: Case, loss: Any, features: Any, labels: Tensor | None) -> Tensor:
    embed = case.embed or (lambda loss, features: [loss.model(column) for column in features])
    columns = [output["sentence_embedding"] for output in embed(loss, features)]
    inner = getattr(loss, "loss", loss)
    return case.brute(columns, labels, inner, features) if case.whole else case.brute(columns, labels)


def gather_on(loss: Any, on: bool) -> None:
    """Turns gathering on in the loss that has the option, through modifiers."""
    while hasattr(loss, "loss"):
        loss = loss.loss
    loss.gather_across_devices = on


class Recorder:
    """Sees the whole batch as one rank and keeps what it was asked to gather."""

    idle = False

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        self.seen.append(rows)
        return rows, 0


class SharedPool:
    """The cluster as one of its ranks sees it, in one process: hands out what was recorded of the whole batch."""

    def __init__(self, pools: Sequence[Tensor], offset: int, idle: bool = False) -> None:
        self.pools, self.offset, self.idle = list(pools), offset, idle

    def __call__(self, rows: Tensor) -> tuple[Tensor, int]:
        pool = self.pools.pop(0)
        mine = pool[self.offset : self.offset + len(rows)]
        assert self.idle or torch.allclose(mine.double(), rows.double(), atol=1e-9)
        return pool, self.offset


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def loss(case: Case, encoder: nn.Module) -> Loss:
    return build(case, losses, encoder)


@pytest.fixture
def features(case: Case, make_features: Any) -> list[dict[str, Any]]:
    return make_features(case.columns, ROWS)


@pytest.fixture
def peers() -> Any:
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses")


def rows_of(features: list[dict[str, Any]], chosen: Any) -> list[dict[str, Any]]:
    return [{key: value[chosen] for key, value in column.items()} for column in features]


def close(mine: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


def by_backward(value: Tensor, module: nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    value.backward()
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


class TestEveryLoss:
    def test_value_and_gradient_are_the_slow_ones(self, case, loss, encoder, features, gradient_of) -> None:
        labels = labels_of(case)
        mine = total(loss(features, labels))
        value = slowly(case, loss, features, labels)
        close(mine, value)
        close(gradient_of(mine, loss), gradient_of(value, loss))
        assert mine.item() > 0
        assert gradient_of(mine, encoder).abs().max() > 1e-6

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_value_and_gradient_are_the_peers(self, case, loss, encoder, features, peers) -> None:
        labels = labels_of(case)
        theirs = build(case, peers, encoder)
        owned = {name: w for name, w in loss.named_parameters() if not name.startswith("model.")}
        theirs.load_state_dict(owned, strict=False)
        tolerance = 1e-10 if labels is None else 1e-6  # the peer takes some labels as float32
        other = total(theirs(features, labels))
        gradients = by_backward(other, theirs)
        theirs_of_model = {
            name: w.grad.clone() for name, w in encoder.named_parameters() if w.grad is not None
        }
        mine = total(loss(features, labels))
        close(mine, other.to(DOUBLE), tolerance)
        found = by_backward(mine, loss)
        for name, gradient in theirs_of_model.items():
            close(found[f"model.{name}"], gradient, tolerance)
        assert {name for name in owned if not name.endswith("types")} <= gradients.keys()
        for name in gradients.keys() & owned.keys():
            close(found[name], gradients[name], tolerance)

    def test_order_of_rows_does_not_matter(self, case, loss, features, gradient_of) -> None:
        labels, order = labels_of(case), torch.randperm(ROWS)
        mine = total(loss(features, labels))
        turned = total(loss(rows_of(features, order), None if labels is None else labels[order]))
        close(mine, turned)
        close(gradient_of(mine, loss), gradient_of(turned, loss))

    @pytest.mark.parametrize("sizes", [[6, 6], [1] * 12, [7, 5, 0]])
    def test_slices_with_a_shared_pool_are_the_whole(self, case, loss, features, gradient_of, sizes) -> None:
        labels = labels_of(case)
        assert not loss.gather_across_devices
        whole = total(loss(features, labels))
        gather_on(loss, case.pooled)
        recorder = Recorder()
        loss.bind(recorder)
        close(total(loss(features, labels)), whole)
        assert len(recorder.seen) >= case.pooled
        value, offset = torch.zeros((), dtype=DOUBLE), 0
        for size in sizes:
            chosen = slice(offset, offset + size) if size else slice(0, 1)  # an idle rank holds a filler
            pool = SharedPool(recorder.seen, offset, idle=size == 0)
            loss.bind(pool)
            part = total(loss(rows_of(features, chosen), None if labels is None else labels[chosen]))
            assert not pool.pools
            value, offset = value + part * size / ROWS, offset + size
        close(value, whole)
        close(gradient_of(value, loss), gradient_of(whole, loss))

    def test_idle_rank_gives_a_joined_zero(self, case, loss, features) -> None:
        labels = labels_of(case)
        gather_on(loss, case.pooled)
        recorder = Recorder()
        loss.bind(recorder)
        loss(features, labels)
        pools = [p.detach().requires_grad_() if p.requires_grad else p for p in recorder.seen]
        loss.own_weight = nn.Parameter(torch.tensor(torch.inf, dtype=DOUBLE))
        loss.bind(SharedPool(pools, 0, idle=True))
        value = loss(rows_of(features, slice(0, 1)), None if labels is None else labels[:1])
        assert total(value).item() == 0
        assert isinstance(value, Tensor) or list(value) == list(loss.parts)
        total(value).backward()
        used = [weight for name, weight in loss.named_parameters() if not name.endswith("types")]
        assert all(weight.grad is not None and not weight.grad.any() for weight in used)
        joined = [pool for pool in pools if pool.requires_grad]
        assert len(joined) == case.pooled
        assert all(pool.grad is not None and not pool.grad.any() for pool in joined)

    def test_every_fast_path_is_plain(self, case, loss, encoder, features, gradient_of) -> None:
        labels = labels_of(case)
        inner = loss
        while hasattr(inner, "loss"):
            inner = inner.loss
        inner.cache(None)
        inner.token_budget = 10**9
        whole = total(loss(features, labels))
        for name, change in {
            "chunks": {"token_budget": 11},
            "cached rows": {"mini_batch_size": 4},
            "cached tokens": {"mini_batch_num_tokens": 25},
            "tiles": {"tile_scores": 60},
            "all": {"token_budget": 30, "mini_batch_size": 3, "tile_scores": 1},
        }.items():
            before = {key: getattr(inner, key) for key in change}
            vars(inner).update(change)
            encoder.calls.clear()
            fast = total(loss(features, labels))
            assert name == "tiles" or len(encoder.calls) > case.columns
            close(fast, whole)
            close(gradient_of(fast, loss), gradient_of(whole, loss))
            with torch.no_grad():
                close(total(loss(features, labels)), whole)
            vars(inner).update(before)

    @pytest.mark.parametrize("kind", ["zero", "same", "huge", "tiny", "opposite", "one row"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_finite_on_extreme_embeddings(self, case, loss, kind, dtype) -> None:
        rows = 1 if kind == "one row" and case.loss not in losses_by_class() else 5
        number = 2 if case.embed else case.columns
        columns = [torch.randn(rows, DIM, generator=torch.Generator().manual_seed(c)) for c in range(number)]
        change = {"zero": 0.0, "huge": 1e4, "tiny": 1e-30}.get(kind, 1.0)
        if kind == "same":
            columns = [columns[0][:1].expand(rows, -1)] * number
        if kind == "opposite":
            columns[1:] = [-columns[0]] * (number - 1)
        leaves = [(column * change).to(dtype).detach().requires_grad_() for column in columns]
        labels = labels_of(case, rows)
        guide = Columns.local([torch.randn(rows, 3, generator=torch.Generator().manual_seed(9))] * number)
        tokens = {"input_ids": torch.ones(rows, 2), "attention_mask": torch.ones(rows, 2)}
        found = Columns.local(leaves, labels if labels is None or case.labels == "class" else labels.float())
        value = total(loss.compute(replace(found, guide=guide, features=(tokens, tokens))))
        value.backward()
        assert torch.isfinite(value)
        assert all(leaf.grad is None or torch.isfinite(leaf.grad).all() for leaf in leaves)

    @pytest.mark.parametrize("kind", ["autocast", "model"])
    def test_bfloat16_is_close_to_float32(self, case, features, gradient_of, kind) -> None:
        """The value within a tenth, the gradient's direction within 0.95 as a cosine; nothing is infinite."""
        labels = labels_of(case)
        labels = labels.float() if labels is not None and case.labels != "class" else labels
        precise, rough = (build(case, losses, TinyEncoder().bfloat16().float()).float() for _ in range(2))
        if kind == "model":
            rough = rough.bfloat16()
            precise.load_state_dict(rough.state_dict())  # rounded weights in both
        wanted = total(precise(features, labels))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
            found = total(rough(features, labels))
        torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.05)
        directions = gradient_of(found, rough).float(), gradient_of(wanted, precise)
        assert torch.isfinite(directions[0]).all()
        assert torch.cosine_similarity(*directions, dim=0) > 0.95

    @pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
    def test_kinds_of_labels(self, case, loss, features, kind) -> None:
        if case.labels == "none" and not loss.labels.startswith("optional"):
            # not asked for: not looked at
            assert total(loss(features, torch.ones(3))) == total(loss(features))
        if case.labels not in ("score", "binary", "class"):
            return
        whole = torch.arange(ROWS) % 2
        wanted = loss(features, whole.to(DOUBLE))
        torch.testing.assert_close(loss(features, whole.to(kind)), wanted, check_dtype=False)
        close(loss(features, whole.to(DOUBLE)[:, None]), wanted)

    def test_wrong_number_of_columns_is_refused(self, case, loss, make_features) -> None:
        least, most = loss.text_columns
        wrong = [least - 1, *([most + 1] if most else [])]
        for number in wrong:
            with pytest.raises(ValueError, match=f"needs .* text columns; found {number}"):
                loss(make_features(number, 3), labels_of(case, 3))

    def test_wrong_labels_are_refused(self, case, loss, features) -> None:
        if case.labels == "none":
            return
        right = labels_of(case)
        nan = right.double().clone()
        nan[3] = torch.nan
        wrong = [
            (right.tolist(), "list"),
            (right[1:], rf"\({ROWS - 1}\D"),
            (right.to(torch.complex64), "complex64"),
        ]
        wrong += [(nan, r"NaN in row\(s\) \[3\]")]
        wrong += [] if loss.labels.startswith("optional") else [(None, "NoneType")]
        wrong += [(right + 0.5, "0.5")] if case.labels == "class" else []
        wrong += [(right * 2, "2.0")] if case.labels == "binary" else []
        wrong += [(right[:, :1].repeat(1, 7), r"7\)")] if case.labels in ("margins", "candidates") else []
        wrong += [(right.reshape(ROWS, 1, 1, -1), r"\(12, 1, 1")] if case.labels.startswith("teacher") else []
        for labels, found in wrong:
            if labels is None and case.loss == "SoftmaxLoss":
                continue  # that asks for the logits
            with pytest.raises(ValueError, match=rf"needs .*found .*{found}"):
                loss(features, labels)

    def test_columns_of_unequal_rows_are_refused(self, case, loss, features) -> None:
        if case.columns == 1:
            return
        features[1] = rows_of(features[1:2], slice(0, 3))[0]
        with pytest.raises(ValueError, match="same number of rows"):
            loss(features, labels_of(case))

    def test_can_be_sent_to_a_worker(self, case, loss, features) -> None:
        other = pickle.loads(pickle.dumps(loss))
        assert total(other(features, labels_of(case))) == total(loss(features, labels_of(case)))

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_describes_itself_as_the_peer_does(self, case, loss, encoder, peers) -> None:
        theirs = build(case, peers, encoder).get_config_dict()
        mine = loss.get_config_dict()
        json.dumps(mine)  # plain values only
        if "guide" in theirs:  # the peer gives the model itself
            theirs["guide"] = "TinyEncoder"
        if mine.get("mini_batch_size", 0) is None:  # the peer names the size that it does not use
            theirs["mini_batch_size"] = None
        assert mine == theirs
        assert loss.citation.strip().startswith("@") or case.loss in UNPUBLISHED


UNPUBLISHED = ("CosineSimilarityLoss", "OnlineContrastiveLoss")


def losses_by_class() -> tuple[str, ...]:
    """Losses that need rows of two classes, which one row is not."""
    mined = ("BatchAll", "BatchHard", "BatchHardSoftMargin", "BatchSemiHard")
    return (*(f"{name}TripletLoss" for name in mined), "MatryoshkaLoss")
