"""The ways a run can end, and exit codes that tell a scheduler whether to restart it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

OK = 0
"""Success."""

FAILED = 1
"""An error in the program or its data: a restart would fail again."""

USER_ERROR = 2
"""An invalid request; reported in one line before anything was started."""

OUT_OF_RETRIES = 69
"""Workers were lost more often than ``max_failures`` allows (``EX_UNAVAILABLE``)."""

INTERRUPTED = 75
"""The run was stopped or lost its storage; its latest checkpoint can be resumed (``EX_TEMPFAIL``)."""


CTRL_C = 130
"""The user pressed Ctrl-C (128 + SIGINT); a training run can resume from its latest checkpoint."""


REPEATABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    AssertionError,
    NotImplementedError,
)
"""Errors of the program or its input, which a restarted worker would raise again."""


@dataclass(frozen=True)
class PeerFailure:
    """What a failed rank tells the others.

    Args:
        rank: Its rank.
        reason: Its error.
        is_repeatable: Whether the error is one of :data:`REPEATABLE`.
    """

    rank: int
    reason: str
    is_repeatable: bool

    @classmethod
    def of(cls, rank: int, error: Exception) -> PeerFailure:
        """What a rank tells of an error."""
        return cls(rank, f"{type(error).__name__}: {error}", isinstance(error, REPEATABLE))


class PeerError(RuntimeError):
    """Other ranks failed in a joint operation; see their own errors for details.

    Args:
        failures: What they told.
    """

    def __init__(self, failures: list[PeerFailure]) -> None:
        super().__init__(failures)
        self.failures = failures

    def __str__(self) -> str:
        return "; ".join(f"rank {failure.rank} failed: {failure.reason}" for failure in self.failures)


class RunEnded(RuntimeError):
    """A run that ended before its last step.

    Attributes:
        exit_code: Exit code for a program that runs nothing else.
    """

    exit_code = FAILED


class Interrupted(RunEnded):
    """The run was told to stop, or its storage was unavailable.

    If restarted with ``resume_from_checkpoint=True``, it resumes from its latest checkpoint.
    """

    exit_code = INTERRUPTED


class LeaseLost(RunEnded):
    """Another driver took over the run's folder; see :mod:`ray_st.training.checkpoint.lease`."""

    exit_code = USER_ERROR


class OutOfRetries(RunEnded):
    """Workers were lost more often than ``max_failures`` allows; the message holds the last loss."""

    exit_code = OUT_OF_RETRIES


class Why(IntEnum):
    """Why a run's workers should stop; the greatest reason among all ranks wins."""

    GO_ON = 0
    RESIZED = 1
    """The number of workers changes: the run continues with another one."""
    LEAVE = 2
    """A worker's process was asked to stop: the run continues in another process."""
    PREEMPTED = 3
    """A worker's node is about to be removed: the run continues in another process."""
    STOP = 4
    """The run was asked to stop."""


class StopRequest:
    """The stop request of this process; set from any thread or signal handler, read by the training loop."""

    def __init__(self) -> None:
        self.why = Why.GO_ON

    def ask(self, why: Why) -> None:
        """Requests a stop; a lesser reason does not override a greater one."""
        self.why = max(self.why, why)


class Moved(RuntimeError):
    """The ranks saved a checkpoint and stopped, in order to continue elsewhere.

    Args:
        why: The reason.
        message: Message for people.
    """

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(why, message)
        self.why = why

    def __str__(self) -> str:
        return str(self.args[1])


class HangError(RuntimeError):
    """Ranks waited for each other for too long; the message says where to find their stack traces."""


@dataclass(frozen=True)
class Hang:
    """A rank that makes no progress.

    Args:
        rank: Its rank.
        step: The current or next step.
        phase: Its current activity: ``step``, ``data``, or ``other``.
        waited_s: Seconds without progress.
        limit_s: How many are allowed.
    """

    rank: int
    step: int
    phase: str
    waited_s: float
    limit_s: float

    def __str__(self) -> str:
        doing = {"step": "in", "data": "waiting for the data of"}.get(self.phase, "beside")
        waited = f"{self.waited_s:.0f} s (limit {self.limit_s:.0f} s)"
        return f"rank {self.rank} has made no progress for {waited}, {doing} step {self.step}"
