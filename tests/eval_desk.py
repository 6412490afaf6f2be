"""Evaluation beside training without a cluster: a desk in this process, whose answers come as late as asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_st.model_trainer import ModelTrainer
from ray_st.training.async_eval.protocol import EvalRequest, EvalResult, evaluate_request, stand_in
from ray_st.training.data.local_source import local_context

TIMES = ("runtime", "per_second")


class Desk:
    """Finds answers at once and hands each out when it was asked for often enough, or is waited for."""

    def __init__(self, trainer: ModelTrainer, folder: Path, late: int) -> None:
        self.trainer = trainer.spec().rebuild(local_context(parts_of(trainer), folder))
        stand_in(self.trainer, 1)
        self.late, self.ordered = late, list[EvalRequest]()
        self.found: dict[int, EvalResult] = {}
        self.asked: dict[int, int] = {}

    def known(self) -> Sequence[int]:
        return list(self.found)

    def request(self, order: EvalRequest) -> None:
        if order.step in self.found:
            return
        self.ordered.append(order)
        self.asked[order.step] = 0
        try:
            self.found[order.step] = evaluate_request(self.trainer, order)
        except ArithmeticError as error:
            self.found[order.step] = EvalResult(order.step, order.epoch, error=repr(error))

    def results(self, steps: Sequence[int], wait_s: float) -> list[EvalResult]:
        there = sorted(step for step in steps if step in self.found)
        for step in there:
            self.asked[step] += 1
        ready = [step for step in there if self.asked[step] > self.late]
        return [self.found[step] for step in (ready or (there[:1] if wait_s else []))]

    def forget(self, after: int) -> None:
        self.found = {step: kept for step, kept in self.found.items() if step <= after}


def parts_of(trainer: ModelTrainer) -> Any:
    """The data that a trainer evaluates with."""
    return trainer.data.eval_specs(1)


def history(trainer: Any) -> list[dict[str, float]]:
    """The trainer's log without times."""
    return [
        {name: value for name, value in entry.items() if not name.endswith(TIMES) and name != "total_flos"}
        for entry in trainer.state.log_history
    ]
