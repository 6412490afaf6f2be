"""Checks of who can access a cluster, and who can eavesdrop on it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from ray_st.runtime.doctor.findings import WARNING, Finding, Node
from ray_st.runtime.doctor.node import is_ray

CLUSTER = "cluster"
"""Location of a finding that concerns no single node."""


def authentication(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether anyone who can reach a port can run code."""
    open_to_others = [node for node in nodes if _open_ports(node)]
    without = [node for node in nodes if node.settings.get("RAY_AUTH_MODE", "disabled") != "token"]
    if without and open_to_others:
        ports = ", ".join(f"{address}:{port}" for address, port in _open_ports(open_to_others[0])[:6])
        yield Finding.error(
            addresses(without),
            f"no token is asked for, and ports are open beyond this machine ({ports}, …): who reaches them "
            "runs code",
            "start Ray with RAY_AUTH_MODE=token and the same token on every node (ray get-auth-token "
            "--generate)",
        )
    elif without:
        yield Finding.note(addresses(without), "no token is asked for; ports are open on this machine only")
    if without and len(without) < len(nodes):
        yield Finding.error(
            addresses(without),
            "RAY_AUTH_MODE differs between nodes",
            "set RAY_AUTH_MODE=token on every node before `ray start`",
        )


def token_files(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether only this user can read the token."""
    for node in nodes:
        if node.exposed_token and node.settings.get("RAY_AUTH_MODE") == "token":
            yield Finding(
                WARNING,
                "authentication",
                node.address,
                f"other users of the machine can read the token in {node.exposed_token}",
                f"chmod 600 {node.exposed_token}",
            )


def tls(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether TLS certificates work, or a note that TLS is off."""
    for node in nodes:
        if node.tls_fault:
            yield Finding.error(
                node.address,
                f"RAY_USE_TLS is set, but {node.tls_fault}",
                "set RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT to a valid pair and its "
                "authority",
            )
    using = [node for node in nodes if node.settings.get("RAY_USE_TLS", "0").lower() in ("1", "true")]
    if using and len(using) < len(nodes):
        plain = [node for node in nodes if node not in using]
        yield Finding.error(
            addresses(plain), "RAY_USE_TLS differs between nodes", "set it on every node, and the driver's"
        )
    if not using and len(hosts(nodes)) > 1:
        yield Finding.note(
            CLUSTER,
            "traffic between hosts, and the token in it, is not encrypted",
            "keep the network to yourself (network policy, security group), or set RAY_USE_TLS=1 with "
            "certificates",
        )


def ports(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Ports that Ray leaves open without a token even in token mode."""
    for node in nodes:
        if any(port == node.metrics_port for _, port in _open_ports(node)):
            yield Finding.note(
                node.address,
                f"the metrics on port {node.metrics_port} ask for no token",
                "let only Prometheus reach it (network policy, firewall)",
            )


def addresses(nodes: Iterable[Node]) -> str:
    """The addresses of some nodes, formatted for a finding."""
    return ", ".join(sorted({node.address for node in nodes}))


def hosts(nodes: Iterable[Node]) -> set[str]:
    """The machines that some nodes run on."""
    return {node.hostname for node in nodes}


def _open_ports(node: Node) -> list[tuple[str, int]]:
    """Ports at which other machines can reach Ray's processes."""
    return [
        (address, port)
        for address, port, command in node.listeners
        if is_ray(command) and not ipaddress.ip_address(address).is_loopback
    ]
