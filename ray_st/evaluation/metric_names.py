"""The metrics that the evaluations of a run report, known before it starts to check what depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import EarlyStoppingCallback, IntervalStrategy, SchedulerType, TrainerCallback
from transformers.optimization import GreedyLR
from transformers.trainer_utils import SaveStrategy

from ray_st.evaluation.sentence_evaluator import metric_names_of
from ray_st.training_args import EvalOn, SentenceTransformerTrainingArguments
from ray_st.util.names import closest, nearest_first

PREFIX = "eval"
"""Prefix of metrics in training; ``metric_for_best_model`` may omit it."""

LOSS_AND_SPEED = ("loss", "runtime", "samples_per_second", "steps_per_second")
"""Metrics reported for each evaluation dataset."""

_SHOWN = 24

Schedule: TypeAlias = LRScheduler | GreedyLR


def prefixed(name: str, prefix: str) -> str:
    """A metric's name with a prefix, which is not added twice.

    Args:
        name: Its name at an evaluator or ``compute_metrics``.
        prefix: The prefix, without an underscore.
    """
    return name if name.startswith(f"{prefix}_") else f"{prefix}_{name}"


@dataclass(frozen=True)
class MetricNames:
    """The metrics that each evaluation of a run reports.

    Attributes:
        known: Their names.
        complete: Whether these are all. They are not if user code, such as ``compute_metrics``, may report
            others.
    """

    known: tuple[str, ...]
    complete: bool

    def listed(self, wanted: str = "") -> str:
        """The names for an error message.

        Args:
            wanted: The requested name; similar ones come first.
        """
        # Compared without the prefix, which all of them share.
        bare = nearest_first(_bare(wanted), map(_bare, self.known))
        names = [prefixed(name, PREFIX) for name in bare]
        more = len(names) - _SHOWN
        return ", ".join(names[:_SHOWN]) + (f", and {more} more" if more > 0 else "")


def names_in_training(
    datasets: Sequence[str],
    evaluator: Callable[..., object] | None,
    model: nn.Module | None,
    open_ended: bool,
) -> MetricNames:
    """The names of the metrics that each evaluation reports while a run trains.

    Args:
        datasets: Names of the evaluation datasets; a single one is named "".
        evaluator: The evaluator, or None.
        model: The model; None if it is not made yet.
        open_ended: Whether user code may report other metrics.
    """
    declared: list[str] | None = []
    if evaluator is not None:
        declared = None if model is None else metric_names_of(evaluator, model)
    names = [
        f"{prefix}_{kind}"
        for prefix in (f"{PREFIX}_{name}" if name else PREFIX for name in datasets)
        for kind in LOSS_AND_SPEED
    ]
    names += [prefixed(name, PREFIX) for name in declared or ()]
    if not datasets:
        names.append(f"{PREFIX}_runtime")
    return MetricNames(tuple(dict.fromkeys(names)), declared is not None and not open_ended)


def check_best_metric(
    args: SentenceTransformerTrainingArguments,
    callbacks: Iterable[TrainerCallback],
    schedule: Schedule | None,
    names: MetricNames,
) -> None:
    """Raises if anything in a run depends on a metric that no evaluation reports.

    Args:
        args: Training arguments.
        callbacks: The run's callbacks.
        schedule: The learning rate schedule that the user gave, or None.
        names: The metrics that evaluations report.

    Raises:
        ValueError: Naming what depends on a metric, and the available metrics.
    """
    evaluates = IntervalStrategy(args.eval_strategy) != IntervalStrategy.NO
    followers = [*_early_stopping(callbacks), *_schedules(args, schedule)]
    if followers and not evaluates:
        raise ValueError(
            f"{followers[0]} follows a metric of evaluations, and eval_strategy='no' makes none. Set "
            "eval_strategy to 'steps' or 'epoch', or leave it out."
        )
    if args.save_strategy == SaveStrategy.BEST:
        followers.append("save_strategy='best'")
    if args.metric_for_best_model is None:
        if followers:
            raise ValueError(
                f"{followers[0]} needs metric_for_best_model, which is not set. Evaluations of this trainer "
                f"report: {names.listed()}{'' if names.complete else ', and what your own parts report'}."
            )
        return
    if evaluates and names.complete:
        _check_known(args.metric_for_best_model, names)


def _check_known(given: str, names: MetricNames) -> None:
    wanted = prefixed(given, PREFIX)
    if wanted in names.known:
        return
    near = closest(_bare(wanted), map(_bare, names.known))
    default = " (the default)" if given == "loss" else ""
    raise ValueError(
        f"metric_for_best_model={given!r}{default}: no evaluation of this trainer reports {wanted!r}"
        + (f"; did you mean {prefixed(near, PREFIX)!r}?" if near else ".")
        + f" There are, the most similar first: {names.listed(wanted)}."
    )


def _bare(name: str) -> str:
    return name.removeprefix(f"{PREFIX}_")


def _early_stopping(callbacks: Iterable[TrainerCallback]) -> Iterator[str]:
    """Early stopping callbacks that need a metric, as checked by transformers' ``on_train_begin``."""
    for callback in callbacks:
        demands = type(callback).on_train_begin is EarlyStoppingCallback.on_train_begin
        if isinstance(callback, EarlyStoppingCallback) and demands:
            yield type(callback).__name__


def _schedules(args: SentenceTransformerTrainingArguments, schedule: Schedule | None) -> Iterator[str]:
    """Learning rate schedules that step after evaluations."""
    if schedule is None:
        kind = SchedulerType(args.lr_scheduler_type)
        if kind in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
            yield f"lr_scheduler_type={kind.value!r}"
    elif isinstance(schedule, (ReduceLROnPlateau, GreedyLR)):
        if args.eval_on == EvalOn.BACKGROUND:
            raise ValueError(
                f'eval_on="background" has metrics too late for {type(schedule).__name__}, which follows '
                'them. Use another schedule, or eval_on="workers".'
            )
        yield f"the schedule {type(schedule).__name__}"
