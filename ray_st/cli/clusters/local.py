"""A Ray node on this machine: protected by a token, and on the loopback interface by default."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ray_st.cli.clusters.spec import check_amount, quantity
from ray_st.cli.run_checks import RunFileError, at, build

_NO_OTHER_NODES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""0 says, on any system, that there are no other nodes; else Ray replaces loopback addresses."""

_STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Seconds that a job has to save a checkpoint when it is stopped; Ray gives it 3."""


@dataclass(frozen=True)
class LocalSpec:
    """A cluster of one node.

    Args:
        host: The address that it listens on.
        port: Port of the cluster's state.
        dashboard_port: Port of the dashboard and the job server.
        cpus: CPUs that it offers; by default all.
        gpus: GPUs that it offers; by default all.
        object_store: Memory of the object store, such as ``500Mi``; by default Ray's choice.
        token: Whether clients must present a token.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    dashboard_port: int = 8265
    cpus: int | None = None
    gpus: int | None = None
    object_store: str | None = None
    token: bool = True


def as_local(raw: Mapping[str, Any], where: str) -> LocalSpec:
    """Validates a description.

    Args:
        raw: What the file says.
        where: The file's name, for errors.

    Raises:
        RunFileError: If a key is unknown, a value is invalid, or the node would be open to anyone.
    """
    spec = build(LocalSpec, raw, where)
    try:
        address = ipaddress.ip_address(spec.host)
    except ValueError as error:
        raise RunFileError(
            f"{at(where, 'host')}: expected an IP address of this machine, found {spec.host!r}"
        ) from error
    if not address.is_loopback and not spec.token:
        raise RunFileError(
            f"{at(where, 'token')}: refused: without a token whoever reaches {spec.host} runs code here; "
            "leave `token` out, or `host`"
        )
    if spec.object_store is not None:
        check_amount(spec.object_store, at(where, "object_store"))
    return spec


def start_command(spec: LocalSpec) -> list[str]:
    """The command that starts the node and stays in the foreground.

    Args:
        spec: The description.
    """
    words = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
    ]
    options: dict[str, Any] = {
        "node-ip-address": spec.host,
        "port": spec.port,
        "dashboard-host": spec.host,
        "dashboard-port": spec.dashboard_port,
        "num-cpus": spec.cpus,
        "num-gpus": spec.gpus,
        "object-store-memory": int(quantity(spec.object_store)) if spec.object_store else None,
    }
    return words + [f"--{name}={value}" for name, value in options.items() if value is not None]


def check_free(host: str, port: int, where: str) -> None:
    """Rejects a port that is in use: Ray would use another one, or connect to another user's cluster.

    Args:
        host: The address that the node will listen on.
        port: The port.
        where: Location of the port in the file, for errors.

    Raises:
        RunFileError: If it is in use; names the process if this user may see it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just released is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunFileError(
                f"{where}: port {port} of {host} cannot be taken ({error.strerror}){_owner(port)}; "
                "end that, or set another port"
            ) from error


def _owner(port: int) -> str:
    """Describes the process that listens on a port of this machine; empty if this user may not see it."""
    try:
        found = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        pid = next((one.pid for one in found if one.laddr and one.laddr.port == port), None)
        return f": process {pid} ({psutil.Process(pid).name()}) listens there" if pid else ""
    except psutil.Error:
        return ""


def settings(spec: LocalSpec, environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """The environment of the node. Creates a token if there is none.

    Args:
        spec: The description.
        environment: That of this process.
        home: The user's folder.
    """
    mode = {
        "RAY_AUTH_MODE": "token" if spec.token else "disabled",
        _STOP_WAIT: environment.get(_STOP_WAIT, "60"),
        # Jobs find `ray-st` even if this virtual environment is not activated.
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), *environment.get("PATH", "").split(os.pathsep)]
        ),
    }
    if ipaddress.ip_address(spec.host).is_loopback:
        mode[_NO_OTHER_NODES] = "0"
    if spec.token and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(environment):
        _make_token(home / ".ray" / "auth_token")
    return {**environment, **mode}


def _make_token(path: Path) -> None:
    """Writes a new token that only this user can read, unless one exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
