"""Hosts made of namespaces (network, processes, mounts, names) on a bridge of their own. Linux and root only."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NET = "10.77.0"
"""The hosts' network; it is in their namespaces only."""

BRIDGE = "rayst-net"


@dataclass
class Host:
    """Namespaces with an address."""

    name: str
    address: str
    holder: subprocess.Popen[bytes]
    init: int
    environment: dict[str, str]

    def command(self, *words: str, **environment: str) -> list[str]:
        settings = [f"{key}={value}" for key, value in (self.environment | environment).items()]
        return ["nsenter", "--target", str(self.init), "--all", "env", "-i", *settings, *words]

    def run(self, *words: str, limit: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*words, **environment)
        return subprocess.run(command, capture_output=True, text=True, timeout=limit)

    def must(self, *words: str, **options: Any) -> str:
        done = self.run(*words, **options)
        if done.returncode:
            raise SystemExit(
                f"{self.name}: {shlex.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def kill(self) -> None:
        self.holder.kill()
        self.holder.wait()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def bridge() -> Iterator[None]:
    ip("netns", "add", BRIDGE)
    try:
        ip("-n", BRIDGE, "link", "add", "bridge", "type", "bridge")
        ip("-n", BRIDGE, "link", "set", "bridge", "up")
        yield
    finally:
        ip("netns", "del", BRIDGE)


@contextmanager
def host(name: str, number: int, folder: Path, environment: dict[str, str]) -> Iterator[Host]:
    """A host: its own network, processes, name, shared memory, /tmp and /etc/ray-st."""
    space, address = f"rayst-{name}", f"{NET}.{number}"
    ip("netns", "add", space)
    try:
        ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", BRIDGE)
        ip("-n", BRIDGE, "link", "set", name, "master", "bridge", "up")
        ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", space, "link", "set", device, "up")
        layers = folder / name
        for layer in ("upper", "work", "home"):
            (layers / layer).mkdir(parents=True)
        mounts = f"mount -t overlay etc -o lowerdir=/etc,upperdir={layers}/upper,workdir={layers}/work /etc"
        hosts = f"echo '127.0.0.1 localhost\n{address} {name}' > /etc/hosts"
        run = f"mkdir /etc/ray-st && cp {folder}/run.yaml /etc/ray-st/"
        shared = (
            "mount -t tmpfs tmp /tmp && mount -t tmpfs -o size=256m shm /dev/shm && chmod 1777 /tmp /dev/shm"
        )
        script = (
            f"set -e; hostname {name}; {mounts}; {hosts}; {run}; {shared}; echo ready; exec sleep infinity"
        )
        spaces = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        holder = subprocess.Popen(
            ["ip", "netns", "exec", space, *spaces, "bash", "-c", script], stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise SystemExit(f"{name}: its namespaces could not be made")
        init = subprocess.run(["pgrep", "-P", str(holder.pid)], capture_output=True, text=True, check=True)
        made = Host(name, address, holder, int(init.stdout), environment | {"HOME": str(layers / "home")})
        try:
            yield made
        finally:
            made.kill()
    finally:
        ip("netns", "del", space)
