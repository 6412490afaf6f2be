"""A search space for the model, loss and data at hand, with a reason for each of its ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

DEFAULT = "default"
"""What asks for this space in place of one."""

_RATES = (
    (50e6, (1e-5, 5e-4), "a model of up to 50 million weights"),
    (200e6, (5e-6, 2e-4), "a model of base size (50 to 200 million weights)"),
    (float("inf"), (2e-6, 1e-4), "a model of more than 200 million weights"),
)
"""Learning rates by the number of weights: BERT's fine-tuning rates (Devlin et al., 2019: 2e-5 to 5e-5 for
base and large) lie inside all of them; smaller models bear larger steps."""

_TOKEN_VECTORS = (3e-3, 3e-1)
_FEW_WEIGHTS = (3e-5, 2e-3)
_FEW = 0.2
"""Share of trained weights below which most of the model is frozen, as with adapters."""

_EPOCHS = ((10_000, 5), (100_000, 3), (1_000_000, 2))
"""Most epochs, by the greatest number of rows."""

_LEAST_STEPS = 10
"""Steps an epoch must have, or a batch is too large for the rows."""

_NO_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")


@dataclass(frozen=True)
class SpaceFacts:
    """What a space is chosen by.

    Args:
        weights: Number of weights.
        trained: How many of them are trained.
        has_layers: Whether there is more than one vector for each token.
        rows: Number of training rows; None if unknown.
        compares_rows: Whether a batch's rows are each other's negatives.
        bounded_memory: Whether the loss needs no more memory for larger batches (a gradient cache).
        ranks: Number of workers times steps of gradient accumulation: batches in a step.
        lr_scheduler_type: The schedule's name.
        fixed: Training arguments that another argument decides, and which one:
            ``{"num_train_epochs": "max_steps"}``.
    """

    weights: int
    trained: int
    has_layers: bool
    rows: int | None
    compares_rows: bool
    bounded_memory: bool
    ranks: int
    lr_scheduler_type: str
    fixed: dict[str, str]


@dataclass(frozen=True)
class Range:
    """A training argument's values: between two numbers, or one of several.

    Args:
        name: The argument.
        reason: Why these values.
        low: Least value.
        high: Greatest value; whole numbers if both are.
        log: Whether ratios count, not differences.
        choices: The values, in place of ``low`` and ``high``.
    """

    name: str
    reason: str
    low: float = 0
    high: float = 0
    log: bool = False
    choices: Sequence[int] = ()

    def draw(self, trial: BaseTrial) -> Any:
        """A value for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        values = ", ".join(map(str, self.choices)) or f"{self.low:g} to {self.high:g}"
        return f"{self.name}: {values}{' (logarithmic)' if self.log else ''}: {self.reason}"


@dataclass(frozen=True)
class DefaultSpace:
    """A space: a function of a trial.

    Args:
        ranges: What is searched.
        left: Why other arguments are not, by name.
    """

    ranges: tuple[Range, ...]
    left: dict[str, str]

    def __call__(self, trial: BaseTrial) -> dict[str, Any]:
        """A point, by name; in a space of one's own, part of it: ``{**default(trial), "scale": ...}``."""
        return {one.name: one.draw(trial) for one in self.ranges}

    def __str__(self) -> str:
        left = [f"{name}: not searched: {reason}" for name, reason in self.left.items()]
        return "\n".join([*map(str, self.ranges), *left])


def chosen_space(facts: SpaceFacts) -> DefaultSpace:
    """The space for these facts: learning rate and warmup, epochs by the rows, batch size by the loss.

    Four parameters at most: twenty trials cover no more.

    Args:
        facts: About model, loss, data and arguments.
    """
    tried = {
        "learning_rate": _learning_rate(facts),
        "warmup_ratio": _warmup(facts),
        "num_train_epochs": _epochs(facts),
        "per_device_train_batch_size": _batch_size(facts),
    }
    found = {
        name: f"{facts.fixed[name]} decides" if name in facts.fixed else one for name, one in tried.items()
    }
    left = {name: one for name, one in found.items() if isinstance(one, str)}
    left["seed"] = 'the best of several seeds is a lucky one; "confirm" trains the winner with others'
    return DefaultSpace(tuple(one for one in found.values() if isinstance(one, Range)), left)


def _learning_rate(facts: SpaceFacts) -> Range:
    (low, high), reason = _rates(facts)
    return Range("learning_rate", f"for {reason}", low, high, log=True)


def _rates(facts: SpaceFacts) -> tuple[tuple[float, float], str]:
    if not facts.has_layers:
        return _TOKEN_VECTORS, "a model of token vectors, most of which no batch touches"
    if facts.trained < _FEW * facts.weights:
        share = facts.trained / facts.weights
        return (
            _FEW_WEIGHTS,
            f"{share:.1%} of the weights, with the others frozen: about ten times that of all",
        )
    return next((rates, words) for most, rates, words in _RATES if facts.trained <= most)


def _warmup(facts: SpaceFacts) -> Range | str:
    if facts.lr_scheduler_type in _NO_WARMUP:
        return f'lr_scheduler_type="{facts.lr_scheduler_type}" has no warmup'
    return Range("warmup_ratio", "the larger the learning rate, the more it helps", 0.0, 0.2)


def _epochs(facts: SpaceFacts) -> Range | str:
    if facts.rows is None:
        return "the number of rows is not known"
    most = next((epochs for rows, epochs in _EPOCHS if facts.rows <= rows), None)
    if most is None:
        return f"{facts.rows:,} rows teach most in their first pass"
    return Range("num_train_epochs", f"for {facts.rows:,} rows", 1, most)


def _batch_size(facts: SpaceFacts) -> Range | str:
    sizes, reason = _batch_sizes(facts)
    fitting = [
        size for size in sizes if facts.rows is None or size * facts.ranks * _LEAST_STEPS <= facts.rows
    ]
    if len(fitting) < 2:
        return f"{facts.rows} rows make fewer than {_LEAST_STEPS} steps with larger batches"
    return Range("per_device_train_batch_size", reason, choices=fitting)


def _batch_sizes(facts: SpaceFacts) -> tuple[Sequence[int], str]:
    if not facts.compares_rows:
        return (8, 16, 32, 64), "the loss needs no other rows of the batch: smaller ones make more steps"
    if facts.bounded_memory:
        return (32, 64, 128, 256, 512), "more rows are more negatives; the cache bounds the memory"
    return (16, 32, 64, 128), "more rows are more negatives, and more memory"
