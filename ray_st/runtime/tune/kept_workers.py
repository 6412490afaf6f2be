"""The workers of a trial's process, which it keeps for its next trial.

A process has one group at a time. It sends the workers home when no trial has come for a while: others may
wait for their resources.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig

from ray_st.runtime.train.worker_group import WorkerGroup

IDLE_S = 20.0
"""Seconds after which workers without a trial are sent home."""


@dataclass
class _Kept:
    """Workers that wait for a trial.

    Args:
        group: The workers.
        timer: Sends them home.
    """

    group: WorkerGroup
    timer: threading.Timer


_lock = threading.Lock()
_kept: list[_Kept] = []


@contextmanager
def workers(
    scaling: ScalingConfig, run_config: RunConfig, torch_config: TorchConfig
) -> Iterator[WorkerGroup]:
    """The kept workers, or new ones; they are kept afterwards if they are still there.

    Args:
        scaling: Number and kind of workers; the same for all trials of a process.
        run_config: Name and storage of a new group.
        torch_config: Configuration of the process group; other workers are sent home first.
    """
    group = _taken()
    if group is not None and not (group.is_there and group.torch_config == torch_config):
        group.close()
        group = None
    if group is None:
        group = WorkerGroup(scaling, run_config, torch_config)
    try:
        yield group
    except BaseException:
        group.close()
        raise
    _keep(group)


def send_home() -> None:
    """Sends kept workers home."""
    group = _taken()
    if group is not None:
        group.close()


def _taken() -> WorkerGroup | None:
    with _lock:
        if not _kept:
            return None
        kept = _kept.pop()
        kept.timer.cancel()
        return kept.group


def _keep(group: WorkerGroup) -> None:
    with _lock:
        timer = threading.Timer(IDLE_S, send_home)
        timer.daemon = True
        _kept.append(_Kept(group, timer))
        timer.start()
