"""How a run can end, and the exit codes that tell a scheduler whether to start it again."""

from __future__ import annotations

OK = 0
"""All went well."""

FAILED = 1
"""An error that is in the program or its data: the same again would fail again."""

USER_ERROR = 2
"""Something was asked for that cannot be; said in one line before anything was started."""

OUT_OF_RETRIES = 69
"""Workers were lost more often than ``max_failures`` allows (``EX_UNAVAILABLE``)."""

INTERRUPTED = 75
"""The run was told to stop and can go on from its newest checkpoint (``EX_TEMPFAIL``)."""


class RunEnded(RuntimeError):
    """A run ended before its last step.

    Attributes:
        exit_code: What a program that runs nothing else should exit with.
    """

    exit_code = FAILED


class Interrupted(RunEnded):
    """The run was told to stop. Started again with ``resume_from_checkpoint=True``, it goes on where it was."""

    exit_code = INTERRUPTED


class OutOfRetries(RunEnded):
    """Workers were lost more often than the run's ``max_failures`` allows; the text holds the last loss."""

    exit_code = OUT_OF_RETRIES
