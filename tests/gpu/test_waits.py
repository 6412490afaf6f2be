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

ENCODE: Waits = Counter({("models/text_encoding.py", "device to host"): 1})
"""A batch of texts is read when it is computed."""

OF_CALLS = {
    ("models/positions.py", "item"),
    ("models/transformer.py", "item"),
    ("models/unpadded.py", "boolean index"),
    ("models/unpadded.py", "device to host"),
    ("models/unpadded.py", "host to device"),
    ("models/unpadded.py", "item"),
    ("models/unpadded.py", "nonzero"),
    ("losses/gradient_cache.py", "boolean index"),
    ("training/loop/hf_loop.py", "boolean index"),
}
"""What each call of an encoder waits for, and its backward pass: it has yet to use the lengths that it gets."""

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
    rest = Counter({wait: count for wait, count in found.items() if wait not in OF_CALLS})
    assert rest == expected, f"other waits than expected:\n{listed(counts)}"


@pytest.mark.parametrize("kind", LOSSES)
def test_a_step(kind: str, pretended: Syncs, tiny: Any, loop: Any, tmp_path: Path) -> None:
    loss, data = LOSSES[kind]
    running = loop(tiny("cpu"), tmp_path, loss=loss, data=data, logging_steps=100)
    counter = CountsWaits(pretended)
    running.add_callback(counter)
    running.train()
    _, second, _ = counter.counts
    check(second, STEP)


def test_encoding_a_batch(pretended: Syncs, tiny: Any) -> None:
    model = tiny("cuda")
    pretended.take()
    model.encode(["a man eats pasta " * (i % 7 + 1) for i in range(32)])
    check(pretended.take(), ENCODE)
