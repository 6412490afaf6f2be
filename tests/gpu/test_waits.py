"""How often the host waits for the device: once a step, once a batch of texts.

Each table holds every wait that there is: a new one fails here, with its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from pretended_device import Syncs
from ray_st import losses

from .conftest import PAIRS

Waits = Counter[tuple[str, str]]
"""How often the host waits: by file of ray_st and kind."""

STEP: Waits = Counter({("training/loop/finite_check.py", "device to host"): 1})
"""A step reads its losses and the norm of its gradient together, before the optimizer moves."""

EVALUATE: Waits = Counter({("training/loop/evaluation_loop.py", "device to host"): 1})
"""The mean loss of all batches."""

ENCODE: dict[str, tuple[dict[str, Any], Waits]] = {
    "numpy": ({}, Counter({("util/tensors.py", "synchronize"): 4})),
    "tensor": ({"convert_to_tensor": True}, Counter()),
    "tokens": ({"output_value": "token_embeddings"}, Counter()),
    "everything": ({"output_value": None}, Counter()),
}
"""Four batches: each array is waited for while the device computes the next one."""

SCORED = {**PAIRS, "score": [i / 12 for i in range(12)]}
CLASSES = {**PAIRS, "label": [i % 2 for i in range(12)]}
SINGLE = {"text": PAIRS["a"], "label": [i % 2 for i in range(12)]}


def _softmax(model: Any) -> Any:
    return losses.SoftmaxLoss(model, 32, num_labels=2)


def _cached(model: Any) -> Any:
    return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)


LOSSES: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "ranking": (losses.MultipleNegativesRankingLoss, PAIRS),
    "cached": (_cached, PAIRS),
    "scores": (losses.CosineSimilarityLoss, SCORED),
    "sorted scores": (losses.CoSENTLoss, SCORED),
    "classes": (_softmax, CLASSES),
    "positive or negative": (losses.ContrastiveLoss, CLASSES),
    "in-batch triplets": (losses.BatchHardTripletLoss, SINGLE),
}


class CountsWaits(TrainerCallback):
    """Counts the waits of each step."""

    def __init__(self, syncs: Syncs) -> None:
        self.syncs = syncs
        self.counts: list[Counter[tuple[str, str]]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.syncs.take()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.counts.append(self.syncs.take())


def listed(counts: Counter[tuple[str, str]]) -> str:
    return "\n".join(f"{count:3} {kind:17} {place}" for (kind, place), count in sorted(counts.items()))


def check(counts: Counter[tuple[str, str]], expected: Waits) -> None:
    found: Waits = Counter()
    for (kind, place), count in counts.items():
        found[place.partition(":")[0], kind] += count
    assert found == expected, f"other waits than expected:\n{listed(counts)}"


@pytest.mark.parametrize("kind", LOSSES)
def test_a_step(kind: str, pretended: Syncs, tiny: Any, loop: Any, tmp_path: Path) -> None:
    loss, data = LOSSES[kind]
    options = {"include_num_input_tokens_seen": "non_padding", "logging_steps": 100}
    running = loop(tiny("cpu"), tmp_path, loss=loss, data=data, **options)
    counter = CountsWaits(pretended)
    running.add_callback(counter)
    running.train()
    _, second, third = counter.counts
    check(second, STEP)
    check(third, STEP)


def test_a_loss_with_prompts(pretended: Syncs, tiny: Any, loop: Any, tmp_path: Path) -> None:
    model = tiny("cpu")
    model.set_pooling_include_prompt(False)
    running = loop(model, tmp_path, prompts="query: ", logging_steps=100)
    counter = CountsWaits(pretended)
    running.add_callback(counter)
    seen: list[Any] = []
    model[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]["prompt_length"]))
    running.train()
    assert len(seen[0]) == 8
    check(counter.counts[1], STEP)


def test_an_evaluation(pretended: Syncs, tiny: Any, loop: Any, tmp_path: Path) -> None:
    running = loop(tiny("cuda"), tmp_path, per_device_eval_batch_size=2)
    running.evaluator = None
    running.evaluate()
    pretended.take()
    running.evaluate()
    check(pretended.take(), EVALUATE)


@pytest.mark.parametrize("form", ENCODE)
def test_encoding_four_batches(form: str, pretended: Syncs, tiny: Any) -> None:
    options, expected = ENCODE[form]
    model = tiny("cuda")
    pretended.take()
    model.encode(["a man eats pasta " * (i % 7 + 1) for i in range(32)], batch_size=8, **options)
    check(pretended.take(), expected)
