"""Conditions on metrics, such as ``"model_mib <= 90"``, and what violating them does to a trial's rank."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_st.study.trial_record import TrialRecord
from ray_st.util.names import did_you_mean

MODEL_MIB, PEAK_MEMORY_MIB, ENCODE_MS = "model_mib", "peak_memory_mib", "encode_ms"

MEASURED = {
    MODEL_MIB: "the model's weights and buffers in the types they are saved in, in MiB",
    PEAK_MEMORY_MIB: "the most memory a worker of the trial has used so far, in MiB",
    ENCODE_MS: "median milliseconds to encode one text, or to score one pair",
}
"""Metrics that trials measure themselves, where a constraint or an objective names them."""

_FORM = re.compile(r"\s*(?P<metric>\S.*?)\s*(?P<relation><=|>=|==|<|>|=)\s*(?P<limit>\S+)\s*")
_WORST = 1e30
"""Beyond any objective."""


class ConstraintError(ValueError):
    """A constraint is not of the form ``metric <= number`` or ``metric >= number``."""


@dataclass(frozen=True)
class Constraint:
    """A bound of a metric.

    Args:
        metric: The metric's name.
        at_most: Whether the limit is the most it may be; otherwise the least.
        limit: The limit.
    """

    metric: str
    at_most: bool
    limit: float

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.limit:.15g}"

    def violation(self, value: float) -> float:
        """How far a value is beyond the limit, as a share of it; 0 or less if it is not.

        A share, so that violations of constraints in different units can be added up.

        Args:
            value: The metric's.
        """
        beyond = value - self.limit if self.at_most else self.limit - value
        return beyond / (abs(self.limit) or 1.0)

    @property
    def is_final(self) -> bool:
        """Whether a trial that violates it once will never satisfy it again, however long it trains."""
        return self.metric == MODEL_MIB or (self.metric == PEAK_MEMORY_MIB and self.at_most)


def parse(text: object) -> Constraint:
    """Reads a constraint.

    Args:
        text: Such as ``"encode_ms <= 2.5"`` or ``"eval_dev_cosine_recall@10 >= 0.8"``.

    Raises:
        ConstraintError: If it is anything else.
    """
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    limit = _number(found["limit"]) if found else None
    if found is None or limit is None or found["relation"] not in ("<=", ">="):
        hint = ""
        if found and limit is not None:
            wanted = {"<": "<=", ">": ">="}.get(found["relation"], "<= or >=")
            hint = f" Write {wanted} in place of {found['relation']}."
        raise ConstraintError(
            "constraints: expected a metric, <= or >=, and a finite number, such as 'model_mib <= 90'; "
            f"found {text!r}.{hint}"
        )
    return Constraint(found["metric"], found["relation"] == "<=", limit)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def parse_all(given: object) -> tuple[Constraint, ...]:
    """Reads a search's constraints.

    Args:
        given: A list of texts.

    Raises:
        ConstraintError: If one is malformed or given twice, or it is no list.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConstraintError(f"constraints: expected a list of texts, found {given!r}.")
    found = tuple(map(parse, given))
    for place, one in enumerate(found):
        if one in found[:place]:
            raise ConstraintError(f"constraints: {str(one)!r} is given twice.")
    return found


def missing_metric(name: str, metrics: Mapping[str, float]) -> str:
    """What to say where no evaluation reports a constraint's metric."""
    return (
        f"constraints: no evaluation reports {name!r}; {did_you_mean(name, [*metrics, *MEASURED])} "
        f"There are: {', '.join(sorted(metrics))}. Trials measure by themselves: {', '.join(MEASURED)}."
    )


# ---- ranking ----


def total(violations: Mapping[str, float] | None) -> float:
    """How far all constraints together are violated; 0 if none is.

    Args:
        violations: By constraint.
    """
    return sum(value for value in (violations or {}).values() if value > 0)


def ranked_value(value: float, violations: Mapping[str, float] | None, maximize: bool) -> float:
    """An objective's value for ranking trials: one that violates a constraint ranks below all that don't.

    Among those that do, the lesser violation ranks higher, whatever their values (Deb's constrained
    domination): otherwise good values that no one may use would stop the trials that satisfy the constraints.

    Args:
        value: The objective's.
        violations: By constraint.
        maximize: Whether more is better.
    """
    beyond = total(violations)
    if not beyond:
        return value
    worse = _WORST * (1 + (beyond / (1 + beyond) if math.isfinite(beyond) else 1.0))
    return -worse if maximize else worse


def broken_for_good(violations: Mapping[str, float]) -> str:
    """Which violated constraint no further training can satisfy, in words; empty if there is none.

    Args:
        violations: By constraint.
    """
    lasting = [text for text, value in violations.items() if value > 0 and parse(text).is_final]
    return f"it violates {' and '.join(lasting)}, which more training cannot change" if lasting else ""


def nearest(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The ended trial that violates the constraints least; None if none was evaluated.

    Args:
        trials: The trials.
    """
    known = [trial for trial in trials if trial.violations and not trial.is_running]
    return min(known, key=lambda trial: (total(trial.violations), trial.number), default=None)


def describe_violations(trial: TrialRecord) -> str:
    """The constraints a trial violates, each with the metric it reached; empty if it satisfies all.

    Args:
        trial: The trial.
    """
    texts = [text for text, value in trial.violations.items() if value > 0]
    return ", ".join(f"{text} (it has {reached(trial, text)})" for text in texts)


def reached(trial: TrialRecord, text: str) -> str:
    """The metric of a constraint at a trial's last evaluation, in few digits.

    Args:
        trial: The trial.
        text: The constraint.
    """
    metrics = trial.history[-1].get("metrics", {}) if trial.history else {}
    value = metrics.get(parse(text).metric)
    return "" if value is None else f"{value:.6g}"
