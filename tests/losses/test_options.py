"""What single losses do beside their value: options in the peer's order, own weights, guides, loaders, bad input."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from ray_st import losses
from ray_st.losses.loss import Loss
from ray_st.losses.modifier import Modifier
from ray_st.testing.tiny_encoder import DIM, WORDS, TinyEncoder, word_tokenizer

CLASSES = [
    getattr(losses, name)
    for name in losses.__all__
    if isinstance(getattr(losses, name), type) and issubclass(getattr(losses, name), Loss)
]
CLASSES = [each for each in CLASSES if each not in (Loss, Modifier)]


def test_all_losses_of_the_contract_are_there() -> None:
    peers = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    theirs = {name for name in peers.__all__ if name.endswith(("Loss", "Negatives"))}
    assert {each.__name__ for each in CLASSES} == theirs
    assert set(peers.__all__) <= set(losses.__all__)


@pytest.mark.parametrize("mine", CLASSES, ids=lambda each: each.__name__)
def test_options_have_the_peers_order_and_defaults(mine) -> None:
    peers = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    theirs = list(inspect.signature(getattr(peers, mine.__name__).__init__).parameters.values())
    ours = list(inspect.signature(mine.__init__).parameters.values())
    assert [p.name for p in theirs] == [p.name for p in ours][: len(theirs)]
    plain = (int, float, str, bool, tuple, type(None))
    for their, our in zip(theirs, ours, strict=False):
        if their.default is not inspect.Parameter.empty and isinstance(their.default, plain):
            assert our.default == their.default, our.name
    extra = {p.name for p in ours[len(theirs) :]}
    assert extra <= {"gather_across_devices", "sentence_embedding_dimension"}


@pytest.mark.parametrize("mine", CLASSES, ids=lambda each: each.__name__)
def test_every_loss_says_what_it_needs(mine) -> None:
    assert "Inputs" in mine.__doc__ or mine.__name__.startswith("Cached")
    assert all(name in mine.__doc__ for name in inspect.signature(mine).parameters)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"scale": 0}, "scale must be more than 0; got 0"),
        ({"directions": ("query_to_query",)}, "must contain 'query_to_doc'"),
        ({"directions": ()}, "must contain 'query_to_doc'"),
        ({"directions": ("sideways",)}, "each of directions must be one of"),
        ({"partition_mode": "none"}, "partition_mode must be one of"),
        (
            {"directions": ("query_to_doc", "doc_to_doc"), "partition_mode": "per_direction"},
            r"\['doc_to_doc'\] never hold it",
        ),
        ({"hardness_mode": "hard"}, "hardness_mode must be one of"),
        ({"hardness_strength": -1}, "hardness_strength must be at least 0"),
    ],
)
def test_wrong_ranking_options_are_refused(options, found, encoder) -> None:
    with pytest.raises(ValueError, match=found):
        losses.MultipleNegativesRankingLoss(encoder, **options)


@pytest.mark.parametrize("name", ["BatchAll", "BatchHard", "BatchHardSoftMargin", "BatchSemiHard"])
@pytest.mark.parametrize("rows", [1, 6])
def test_one_class_is_refused_in_training_and_zero_in_evaluation(name, rows, encoder, make_features) -> None:
    loss = getattr(losses, f"{name}TripletLoss")(encoder)
    features, labels = make_features(1, rows), torch.full((rows,), 7)
    with pytest.raises(
        ValueError, match=rf"{name}TripletLoss needs rows of at least two classes.*{rows} row.*class 7"
    ):
        loss(features, labels)
    with torch.no_grad():
        assert loss(features, labels) == 0


@pytest.mark.parametrize("labels", [[0, 3, 1], [0, -1, 1]])
def test_classes_out_of_range_are_refused(labels, encoder, make_features) -> None:
    loss = losses.SoftmaxLoss(encoder, DIM, 3).double()
    with pytest.raises(ValueError, match=r"labels from 0 to 2 \(num_labels=3\); found \[(3|-1)\]"):
        loss(make_features(2, 3), torch.tensor(labels))


def test_softmax_logits_names_and_soft_labels(encoder, make_features) -> None:
    loss = losses.SoftmaxLoss(encoder, sentence_embedding_dimension=DIM, num_labels=3).double()
    embeddings, logits = loss(make_features(2, 4))
    assert [rows.shape for rows in embeddings] == [(4, DIM)] * 2
    assert logits.shape == (4, 3)
    hard = loss(make_features(2, 4), torch.tensor([0, 1, 2, 0]))
    soft = loss(make_features(2, 4), torch.eye(3).double()[[0, 1, 2, 0]])
    torch.testing.assert_close(hard, soft)
    with pytest.raises(ValueError, match="embedding_dimension and num_labels"):
        losses.SoftmaxLoss(encoder, DIM)
    with pytest.raises(ValueError, match="at least one"):
        losses.SoftmaxLoss(encoder, DIM, 2, concatenation_sent_rep=False, concatenation_sent_difference=False)


class TestGuide:
    def test_is_neither_trained_nor_saved_nor_put_into_training_mode(self, encoder, make_features) -> None:
        guide = TinyEncoder(seed=2)
        loss = losses.GISTEmbedLoss(encoder, guide).train()
        loss(make_features(2, 4)).backward()
        assert not guide.training
        assert all(weight.grad is None for weight in guide.parameters())
        assert not {id(w) for w in guide.parameters()} & {id(w) for w in loss.parameters()}
        assert loss.guide is guide

    def test_with_another_tokenizer_gets_the_texts(self, encoder, make_features) -> None:
        class Other(TinyEncoder):
            """Its word x3 is the model's w3, and has another number."""

            def __init__(self) -> None:
                super().__init__(seed=2)
                self.tokenizer = word_tokenizer("x")

            def tokenize(self, texts: list[str]) -> dict[str, Any]:
                numbers = [[(int(word[1:]) + 5) % WORDS for word in text.split()] for text in texts]
                width = max(map(len, numbers))
                ids = torch.tensor([row + [0] * (width - len(row)) for row in numbers])
                mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in numbers])
                return {"input_ids": ids, "attention_mask": mask}

        features, guide = make_features(2, 6), Other()
        loss = losses.GISTEmbedLoss(encoder, guide, temperature=0.1)
        assert loss.must_retokenize
        shifted = [
            {**column, "input_ids": (column["input_ids"] + 5) % WORDS * column["attention_mask"]}
            for column in features
        ]
        columns = loss.columns(features)
        for mine, column in zip(columns.guide.mine, shifted, strict=True):
            torch.testing.assert_close(mine, guide(column)["sentence_embedding"].detach())
        assert not any(rows.requires_grad for rows in columns.guide.mine)

    def test_of_shorter_sequences_gets_the_texts(self, encoder) -> None:
        guide = TinyEncoder()
        assert not losses.GISTEmbedLoss(encoder, guide).must_retokenize
        guide.max_seq_length = 8
        assert losses.GISTEmbedLoss(encoder, guide).must_retokenize

    def test_bad_choices_are_refused(self, encoder) -> None:
        with pytest.raises(ValueError, match="the guide, Linear, has none"):
            losses.GISTEmbedLoss(encoder, torch.nn.Linear(1, 1))
        with pytest.raises(ValueError, match="margin_strategy must be one of"):
            losses.CachedGISTEmbedLoss(encoder, encoder, margin_strategy="percent")
        with pytest.raises(ValueError, match="temperature must be more than 0"):
            losses.GISTEmbedLoss(encoder, encoder, temperature=0)


class TestProjection:
    def test_saved_and_loaded(self, encoder, tmp_path) -> None:
        encoder.float()
        first = losses.EmbedDistillLoss(encoder, projection_dim=9)
        first.save_projection(tmp_path / "projection.safetensors")
        second = losses.EmbedDistillLoss(encoder)
        second.load_projection(tmp_path / "projection.safetensors")
        assert second.projection_dim == 9
        assert torch.equal(first.projection.weight, second.projection.weight)
        with pytest.raises(ValueError, match="maps 6 to 9 dimensions; needed is 6 to 4"):
            losses.MSELoss(encoder, 4).load_projection(tmp_path / "projection.safetensors")
        with pytest.raises(ValueError, match="no projection to save"):
            losses.MSELoss(encoder).save_projection(tmp_path / "none")

    def test_missing_where_dimensions_differ_is_said(self, encoder, make_features) -> None:
        with pytest.raises(ValueError, match="Set projection_dim=9"):
            losses.MSELoss(encoder)(make_features(1, 3), torch.ones(3, 9))


def test_other_choices_are_refused(encoder) -> None:
    with pytest.raises(ValueError, match="distance_metric must be one of"):
        losses.EmbedDistillLoss(encoder, "dot")
    with pytest.raises(ValueError, match="teacher_temperature must be more than 0"):
        losses.DistillKLDivLoss(encoder, teacher_temperature=float("inf"))
    with pytest.raises(ValueError, match="must not be 0"):
        losses.GlobalOrthogonalRegularizationLoss(encoder, mean_weight=None, second_moment_weight=0)
    with pytest.raises(ValueError, match="aggregation must be one of"):
        losses.GlobalOrthogonalRegularizationLoss(encoder, aggregation="max")
    with pytest.raises(ValueError, match="scale must be more than 0"):
        losses.ContrastiveTensionLossInBatchNegatives(encoder, scale=-1)


def test_angle_of_pairs_needs_labels(encoder, make_features) -> None:
    with pytest.raises(ValueError, match="needs labels"):
        losses.AnglELoss(encoder)(make_features(2, 3))


class TestTension:
    def test_equal_texts_are_told_by_their_tokens(self, encoder, make_features) -> None:
        (first,), (second,) = make_features(1, 6), make_features(1, 6, seed=1)
        width = first["input_ids"].shape[1]
        second = {key: torch.nn.functional.pad(value, (0, 2)) for key, value in second.items()}
        for key in first:
            second[key][2] = 0
            second[key][2, :width] = first[key][2]
        loss = losses.ContrastiveTensionLoss(encoder)
        labels = torch.tensor([0, 0, 1, 0, 0, 0])
        torch.testing.assert_close(loss([first, second]), loss([first, second], labels))

    def test_the_copy_is_trained_and_the_models_part_ways(self, encoder, make_features) -> None:
        loss = losses.ContrastiveTensionLoss(encoder)
        assert loss.model2 is encoder
        torch.optim.SGD(loss.parameters(), lr=0.1).step(lambda: _backward(loss(make_features(2, 5))))
        assert not torch.equal(loss.model1.words, encoder.words)

    def test_loader(self) -> None:
        texts = [f"text {i}" for i in range(61)]
        loader = losses.ContrastiveTensionDataLoader(texts, 8, pos_neg_ratio=4)
        first, second = list(loader), list(loader)
        assert len(loader) == len(first) == 61 // (4 * 3 + 2)
        for batch in first:
            assert [pair.label for pair in batch] == [1, 0, 0, 0] * 2
            assert all((pair.texts[0] == pair.texts[1]) == pair.label for pair in batch)
        assert first != second
        assert first == list(losses.ContrastiveTensionDataLoader(texts, 8, pos_neg_ratio=4))
        assert texts == [f"text {i}" for i in range(61)]
        loader.collate_fn = len
        assert list(loader) == [8] * 4
        with pytest.raises(ValueError, match="multiple of pos_neg_ratio=8; got 12"):
            losses.ContrastiveTensionDataLoader(texts, 12)


def _backward(value: torch.Tensor) -> torch.Tensor:
    value.backward()
    return value
