"""How often the host waits for the device; the aim is once a step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from pretended_device import Syncs

STEP, ENCODE = 30, 22
"""What was measured on 2026-11-30 (docs/log.md has the places); lower them when there are fewer."""


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


def test_a_step_of_a_ranking_loss(pretended: Syncs, tiny: Any, loop: Any, tmp_path: Path) -> None:
    running = loop(tiny("cpu"), tmp_path, logging_steps=100)
    counter = CountsWaits(pretended)
    running.add_callback(counter)
    running.train()
    _, second, third = counter.counts
    assert second == third
    assert second.total() <= STEP, f"more waits than before:\n{listed(second)}"


def test_encoding_a_batch(pretended: Syncs, tiny: Any) -> None:
    model = tiny("cuda")
    pretended.take()
    model.encode(["a man eats pasta " * (i % 7 + 1) for i in range(32)])
    counts = pretended.take()
    assert counts.total() <= ENCODE, f"more waits than before:\n{listed(counts)}"
