from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ray_st.evaluation import LabelAccuracyEvaluator
from ray_st.losses import SoftmaxLoss

TEXTS = ["a sunny man", "good weather", "the text of a document", "bad", "pasta to eat and a word"]
EXAMPLES = [SimpleNamespace(texts=[TEXTS[i % 5], TEXTS[i * 3 % 4]], label=i % 3) for i in range(20)]


def head(model: Any) -> SoftmaxLoss:
    torch.manual_seed(3)
    return SoftmaxLoss(model, 32, 3)


class Features(torch.nn.Module):
    """A classifier of the peer's form, which knows nothing of embeddings."""

    def __init__(self, loss: SoftmaxLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, features: Any, labels: None) -> Any:
        assert not self.loss.model.training
        return self.loss(features, labels)


def example(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"texts": ["a", "b"], "label": 0, **changes})


@pytest.mark.filterwarnings("ignore")
def test_metrics_are_the_peers(tiny_model, tiny_folder, peer, peers, tmp_path) -> None:
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss as Theirs

    other = peer.SentenceTransformer(str(tiny_folder), device="cpu")
    theirs = Theirs(other, 32, 3)
    theirs.classifier.load_state_dict(head(tiny_model).classifier.state_dict())
    loader = DataLoader(EXAMPLES, batch_size=6)
    expected = peers.LabelAccuracyEvaluator(loader, "dev", theirs)(other, str(tmp_path / "theirs"))
    for classifier in (head(tiny_model), Features(head(tiny_model))):
        tiny_model.train()
        evaluator = LabelAccuracyEvaluator(DataLoader(EXAMPLES, batch_size=6), "dev", classifier)
        assert evaluator(tiny_model, str(tmp_path / "ours")) == pytest.approx(expected, abs=1e-6)
        assert tiny_model.training
    assert 0 < expected["dev_accuracy"] < 1
    name = "accuracy_evaluation_dev_results.csv"
    mine, other_file = ((tmp_path / side / name).read_text().splitlines() for side in ("ours", "theirs"))
    assert mine[:2] == other_file


def test_the_loader_is_left_as_it_is_and_read_once() -> None:
    loader = DataLoader(EXAMPLES, batch_size=6, shuffle=True, collate_fn=len)
    evaluator = LabelAccuracyEvaluator(loader, "", torch.nn.Identity())
    assert list(loader) == [6, 6, 6, 2]
    assert evaluator.batch_size == 6
    assert sorted(evaluator.labels.tolist()) == sorted(i % 3 for i in range(20))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "needs at least one row; examples are empty"),
        (
            [example(), example(texts=["a"])],
            "as many texts in each example; the first has 2, example 1 has 1",
        ),
        ([example(texts=["a", None])], "text 1 of the examples; row 0 is None"),
        ([example(), example(label=-1)], "class from 0 as label of each example; that of 1 is -1"),
        ([example(label=0.5)], "that of 0 is 0.5"),
        ([example(label="a")], "that of 0 is 'a'"),
    ],
)
def test_bad_examples_are_refused(examples, message) -> None:
    with pytest.raises(ValueError, match=message):
        LabelAccuracyEvaluator([examples], "", torch.nn.Identity())


def test_a_classifier_is_needed() -> None:
    with pytest.raises(ValueError, match="needs a softmax_model that can be called; found None"):
        LabelAccuracyEvaluator([EXAMPLES])


def test_classes_beyond_the_classifiers_are_refused(tiny_model) -> None:
    evaluator = LabelAccuracyEvaluator([[example(label=np.int64(7))]], "", head(tiny_model))
    with pytest.raises(ValueError, match="has 3 classes, from 0; example 0 has class 7"):
        evaluator(tiny_model)


def test_nan_outputs_are_refused(tiny_model) -> None:
    broken = head(tiny_model)
    torch.nn.init.constant_(broken.classifier.weight, torch.nan)
    with pytest.raises(ValueError, match="outputs for example 0 are nan"):
        LabelAccuracyEvaluator([EXAMPLES], "", broken)(tiny_model)
