"""How a run can end, and the exit codes that tell a scheduler whether to start it again."""

from __future__ import annotations

from enum import IntEnum

OK = 0
"""All went well."""

FAILED = 1
"""An error that is in the program or its data: the same again would fail again."""

USER_ERROR = 2
"""Something was asked for that cannot be; said in one line before anything was started."""

OUT_OF_RETRIES = 69
"""Workers were lost more often than ``max_failures`` allows (``EX_UNAVAILABLE``)."""

INTERRUPTED = 75
"""The run was stopped or lost its storage; its newest checkpoint can be resumed (``EX_TEMPFAIL``)."""


CTRL_C = 130
"""The user pressed Ctrl-C (128 + SIGINT); a run that was training can go on from its newest checkpoint."""


class RunEnded(RuntimeError):
    """A run ended before its last step.

    Attributes:
        exit_code: What a program that runs nothing else should exit with.
    """

    exit_code = FAILED


class Interrupted(RunEnded):
    """The run was told to stop, or its storage was away at a bad moment.

    Started again with ``resume_from_checkpoint=True``, it goes on from its newest checkpoint.
    """

    exit_code = INTERRUPTED


class LeaseLost(RunEnded):
    """Another driver took the run's folder; see :mod:`ray_st.training.checkpoint.lease`."""

    exit_code = USER_ERROR


class OutOfRetries(RunEnded):
    """Workers were lost more often than the run's ``max_failures`` allows; the text holds the last loss."""

    exit_code = OUT_OF_RETRIES


class Why(IntEnum):
    """Why a run's workers should stop; the greatest of all ranks' wishes counts."""

    GO_ON = 0
    LEAVE = 1
    """A worker's process was asked to end: the run goes on in another."""
    PREEMPTED = 2
    """A worker's node is being taken away: likewise."""
    STOP = 3
    """The run was asked to end."""


class StopRequest:
    """What this process was asked for; set from any thread or signal handler, read by the loop."""

    def __init__(self) -> None:
        self.why = Why.GO_ON

    def ask(self, why: Why) -> None:
        """Asks to stop; a lesser wish does not take back a greater one."""
        self.why = max(self.why, why)


class Moved(RuntimeError):
    """The ranks saved a checkpoint and stopped, to go on elsewhere.

    Args:
        why: The reason.
        message: What people read.
    """

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(why, message)
        self.why = why

    def __str__(self) -> str:
        return str(self.args[1])


class HangError(RuntimeError):
    """Ranks waited for each other for too long; the text says where their stacks are."""
