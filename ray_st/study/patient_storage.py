"""Optuna's storage, waited for while it does not answer: a database that is locked, or restarts.

The study in the storage mirrors the journal, which is written first: nothing is lost while the search waits.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from ray_st.util.events import notes

PATIENCE_S = 600.0
"""How long a call waits for the storage."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0

_OTHERS = {
    "sqlalchemy.exc": ("OperationalError", "InterfaceError", "TimeoutError"),
    "redis.exceptions": ("ConnectionError", "TimeoutError"),
    "grpc": ("RpcError",),
}
"""What libraries below Optuna raise where Optuna does not wrap it."""

_STATE = "set_trial_state_values"


class StorageLost(RuntimeError):
    """The storage did not answer for as long as a search waits."""


class PatientStorage:
    """A storage whose calls are repeated until it answers again, for a while.

    A call that failed may have been carried out before the connection broke; repeated, it must not fail for
    that. A new trial may exist twice then: the one that nobody knows is closed when the search is continued.
    After one call has waited in vain, the next ones, such as those of the report, fail at once.

    Args:
        inner: The storage.
        patience_s: How long a call waits, in seconds.
        clock: Seconds from any moment.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        inner: optuna.storages.BaseStorage,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner, self._patience_s, self._clock, self._sleep = inner, patience_s, clock, sleep
        self._is_lost = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":  # asked for while it is unpickled
            raise AttributeError(name)
        found = getattr(self._inner, name)
        return partial(self._insist, name, found) if callable(found) else found

    def _insist(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        since: float | None = None
        pause = _FIRST_PAUSE_S
        while True:
            try:
                found = call(*args, **kwargs)
            except _away() as error:
                now = self._clock()
                if since is None:
                    since = now if self._is_lost else self._begin(now, error)
                if self._is_lost or now - since >= self._patience_s:
                    self._is_lost = True
                    raise StorageLost(self._lost(now - since, error)) from error
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            except UpdateFinishedTrialError:
                if since is None or name != _STATE:
                    raise
                found = True  # the first try had ended the trial
                break
            else:
                break
        self._is_lost = False
        if since is not None:
            notes.info(f"storage: it answers again after {self._clock() - since:.0f} s; the search goes on")
            if name == _STATE and TrialState.RUNNING in (*args, *kwargs.values()):
                return True  # this search alone starts its trials: if one had begun, the first try did it
        return found

    def _begin(self, now: float, error: BaseException) -> float:
        notes.warning(
            f"warning: storage: no answer ({_why(error)}); the search waits up to {self._patience_s:.0f} s "
            "for it, running trials go on, and nothing is lost: the journal is written first"
        )
        return now

    def _lost(self, waited: float, error: BaseException) -> str:
        return (
            f"storage: no answer for {waited:.0f} s ({_why(error)}). All that happened is in the search's "
            "journal: when the storage is back, start the search again under its name, and it continues; "
            "without storage=... it continues at once, and no dashboard shows it."
        )


def patient(given: str | optuna.storages.BaseStorage | None) -> Any:
    """The storage of a study, waited for; None for one in memory.

    A storage that does not answer when it is opened raises its own error at once: it may be misspelled.

    Args:
        given: Optuna's storage, or the URL of a database.
    """
    if given is None or isinstance(given, optuna.storages.InMemoryStorage):
        return given
    return PatientStorage(optuna.storages.get_storage(given))


def _away() -> tuple[type[BaseException], ...]:
    """What is raised when a storage does not answer."""
    found: list[type[BaseException]] = [StorageInternalError, OSError]
    for module, names in _OTHERS.items():
        if module in sys.modules:
            found += [vars(importlib.import_module(module))[name] for name in names]
    return tuple(found)


def _why(error: BaseException) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
