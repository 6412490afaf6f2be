"""The Ray cluster that a process would join, probed first because Ray waits long for one that is gone."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

_TRY_S = 5.0


def found_address(environment: Mapping[str, str] = os.environ) -> str | None:
    """HOST:PORT of the cluster that Ray joins if no address is given, or None if Ray would start one.

    This is ``RAY_ADDRESS``, or the address that the last ``ray start`` on this machine recorded.

    Args:
        environment: Environment variables of the process.
    """
    named = environment.get("RAY_ADDRESS")
    if not named or named == "auto":
        note = Path(environment.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster")
        named = note.read_text().strip() if note.is_file() else None
    if (
        not named or named == "local" or "://" in named
    ):  # addresses of Ray Client or an API server are resolved by Ray
        return None
    return named


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is reachable only from this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name other than localhost
        return False


def check_answers(address: str) -> None:
    """Verifies that something listens at a cluster's address.

    Args:
        address: HOST:PORT.

    Raises:
        ConnectionError: If nothing listens there.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TRY_S).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}). It is named by RAY_ADDRESS or by the last `ray "
            "start` on this machine. Start it, name another one, or set RAY_ADDRESS=local to have one "
            "started for this process alone"
        ) from error
